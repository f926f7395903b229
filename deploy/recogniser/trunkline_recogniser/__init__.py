"""Trunkline's reference recogniser: `trunkline.transcription.v1` on PocketSphinx.

It runs offline on a CPU and stands for any recogniser behind the hand-off; for
production transcripts a larger model behind the same contract is the user's
choice.

How it is put together: `server` speaks gRPC and relays each call's messages,
unparsed, to a process of its own (`worker`), because PocketSphinx holds Python's
interpreter lock while it decodes and because a fault in the decoder then ends one
call and not all. In the worker a `session` checks the messages against the
contract and drives, for each channel, an `endpoint` (where speech begins and ends)
and a `decoder`. `audio` turns telephone samples into what the model was made for.
"""

VERSION = "1"
