"""Another house: the processes that hold torch. Of ftd it knows the core alone."""
