"""The built-in task families, one robot a file; they plug in as those of others do."""
