"""Energy: sources ranked behind one interface, units and signs by evidence, a figure with its uncertainty or a reason.

| rank | source | module |
| --- | --- | --- |
| 1 | external meter | `meter` |
| 2 | power rails (ODPM) in a Perfetto trace | `perfetto_trace` |
| 3 | battery gauge: stream, Perfetto trace, iOS diagnostics, per cents | `counters`, `battery`, `ios`, `percent` |
| 4 | modelled by the vendor's power profile | `modelled` |

`measure.measure_case` chooses and takes the idle baseline off. `predicted` is no source: it is arithmetic on bytes and
operations, kept in a field of its own and labelled.
"""
