"""Host to hardware. Links to boards, and the client of the agent that runs there."""
