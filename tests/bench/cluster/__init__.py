"""A place to run jobs that end by themselves, and the services around it: what the bars are measured with."""
