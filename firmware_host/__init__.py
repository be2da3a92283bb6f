"""Host to hardware. Nothing is here yet: deploying, pulling and replaying come in later versions."""
