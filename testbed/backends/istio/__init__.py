"""The istio backend's side of the Kubernetes API: who to ask, how resources get in, what was refused and where."""
