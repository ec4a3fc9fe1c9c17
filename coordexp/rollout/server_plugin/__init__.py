"""What runs in the rollout server's processes beside ms-swift and vLLM."""
