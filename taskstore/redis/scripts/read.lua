-- Read a task in order to change it.
--
-- Reads: task, text, runs.
--
-- ARGV[6]  Task id.
-- ARGV[7]  '1' to include the request.
-- ARGV[8]  Only if this is its owner; absent for any owner.
--
-- Returns {'ok', stored_task} or {'gone'}.
local id, with_request, owner = ARGV[6], ARGV[7] == '1', ARGV[8]

if is_anything_due() then return {'due'} end
-- Somebody else's task must look like a missing one, and take as long.
if owner and call('HGET', task_key(id), 'o') ~= owner then return {'gone'} end
local task = stored_task(id, with_request)
if not task then return {'gone'} end
return {'ok', task}
