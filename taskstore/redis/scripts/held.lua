-- Read which tasks a worker has, leased or reserved.
--
-- Reads: the workers through workers.lua.
--
-- ARGV[6]  Worker.
--
-- Returns {'ok', ids of its tasks}.
if is_anything_due() then return {'due'} end
return {'ok', held_tasks(ARGV[6])}
