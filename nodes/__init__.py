"""The processes that run on machines; each subfolder is one kind of process, or shared code."""
