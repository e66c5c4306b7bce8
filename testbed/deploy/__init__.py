"""What is installed on a node after it has booted, by pyinfra in a child process."""

from testbed.deploy.running import DeployFailed, DeployHost, DeployResult, HostOutcome, run_deploy

__all__ = ["DeployFailed", "DeployHost", "DeployResult", "HostOutcome", "run_deploy"]
