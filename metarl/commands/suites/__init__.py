"""Commands about environments of other interpreters."""
