-- Remember that a worker was in contact about a task that it did not change.
--
-- Reads and writes: the workers through workers.lua.
--
-- ARGV[6]  Worker.
-- ARGV[7]  Its holder.
--
-- Returns {'ok'}.
local worker, holder = ARGV[6], ARGV[7]

record_contact(worker, holder)
update_connected(worker)
return {'ok'}
