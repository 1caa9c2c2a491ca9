"""A job in miniature on the CPU, and what the miniature hides checked at full size without devices.

stand_ins     what is out of reach -> something of the same kind           job -> job
full_size     the job as it is, without a device                           job -> findings
row_choice    the rows that are most likely to break something             data -> few rows
miniature     fewer actors, smaller models, fewer steps                    job -> job
events        run it, kill it, run it again, and look what happened        folder -> events
folder        where all of it lies
report        rehearsal.json and rehearsal.diff
"""
