-- Read the tasks of several leases.
--
-- Reads: task, text, runs.
--
-- ARGV[6]  '1' to include the requests of queued tasks, which a renewal begins.
-- ARGV[7]  Task id, and so on to the last argument.
--
-- Returns {'ok', a list of stored_tasks, each '' if there is no such task}.
local with_requests = ARGV[6] == '1'

if is_anything_due() then return {'due'} end
local found = {}
for n, id in ipairs(arguments_from(7)) do
  local with_request = with_requests and call('HGET', task_key(id), 's') == 'queued'
  found[n] = stored_task(id, with_request) or ''
end
return {'ok', found}
