"""The built-in task families, one robot a file; they plug in as a stranger's would."""
