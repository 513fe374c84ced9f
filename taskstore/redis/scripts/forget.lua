-- Delete a final task, if nobody has changed it since it was read.
--
-- Reads and writes: task; counts, finished and keys through room.lua.
--
-- ARGV[6]  Task id.
-- ARGV[7]  Version that the task must still have.
--
-- Returns {'ok'} or {'conflict'}.
local id, version = ARGV[6], ARGV[7]

-- The first run, whose answer was lost, has deleted it.
if again and call('EXISTS', task_key(id)) == 0 then return {'ok'} end
if call('HGET', task_key(id), 'v') ~= version then return {'conflict'} end
forget(id)
return {'ok'}
