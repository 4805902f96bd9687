"""How many files this process may have open at once."""

import resource


def allow(count: int) -> None:
    """So many, or as many as we may have: a crowd at the door must not keep us from opening what a
    job needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
