"""What a job will take on given machines, before they are paid for: whether it fits, seconds, cost, the best layout.

    hardware      cluster file or this machine           -> the machines in figures
    work          shapes and numbers of tokens           -> operations, bytes, passes of one model
    iteration     job and lengths                        -> the work of each phase
    seconds       work, plan and hardware                -> ideal seconds of each phase
    calibration   measured runs                          -> which share of the ideal each phase reached
    remedies      what does not fit                      -> the change that makes it fit
    splits        devices                                -> the layout with the fastest iteration
    forecast      all of it                              -> the figures that `rayalign plan` prints

Memory is that of `pipeline.plan`; no other arithmetic of it stands here.
"""
