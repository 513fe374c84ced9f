-- Remember that a worker was in contact about a task that it did not change.
--
-- Reads and writes: groups, until, seen, connected, workers.
--
-- ARGV[6]  Worker.
-- ARGV[7]  Until when it counts as connected.
--
-- Returns {'ok'}.
local worker, connected_until = ARGV[6], tonumber(ARGV[7])

record_contact(worker, connected_until)
return {'ok'}
