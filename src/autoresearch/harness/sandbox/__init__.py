"""The sandbox: what a candidate's processes can reach of the machine, and of each other.

A process of an experiment is forked and not started, so nothing is wrapped around it: it gives up rights by itself, for
good, before the candidate's code is let in. `confine` says in which order; each mechanism of the kernel has a page of
its own (`namespaces`, `landlock`, `seccomp`), and `policy` says what may be read. `probe` finds out which mechanisms
this machine has and attacks what they make; the engine reads its findings.
"""
