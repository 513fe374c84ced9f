-- Record that a claim waits no longer, and has found no task.
--
-- Reads and writes: the workers through workers.lua.
--
-- ARGV[6]  Worker.
-- ARGV[7]  Its holder.
-- ARGV[8]  The hold that stands for the claim.
-- ARGV[9]  '1' when the worker hears of it, which is a contact.
--
-- Returns {'ok'}.
local worker, holder, hold, is_contact = ARGV[6], ARGV[7], ARGV[8], ARGV[9] == '1'

-- A claim without its hold ended when the worker left.
if remove_hold(worker, hold) and is_contact then record_contact(worker, holder) end
update_connected(worker)
return {'ok'}
