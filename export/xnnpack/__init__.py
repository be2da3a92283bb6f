"""From a lean ATen graph to one XNNPACK delegate, in the form that ExecuTorch 1.5's XNNPACK backend loads."""
