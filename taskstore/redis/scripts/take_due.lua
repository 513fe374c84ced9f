-- Forget tasks that were kept for long enough, and take the tasks that are due. Nobody else gets
-- these for a while; if their new state is not committed by then, they are due again.
--
-- Reads and writes: due; counts, finished, keys and task through common.lua. Reads: text, runs.
--
-- ARGV[6]  After how many seconds a task taken now is due again.
--
-- Returns {'ok', now, when the next one is due or '', 1 if more is to be forgotten, a list of
-- {when it was due, stored_task}}.
local reserve_seconds = tonumber(ARGV[6])

local is_more = make_room(0, 1, 500)
local taken = {}
local due = call('ZRANGEBYSCORE', prefix .. 'due', '-inf', as_text(now), 'WITHSCORES',
  'LIMIT', 0, 100)
for n = 1, #due, 2 do
  local id, due_at = due[n], due[n + 1]
  local task = stored_task(id, false)
  if task then
    taken[#taken + 1] = {due_at, task}
    call('ZADD', prefix .. 'due', as_text(now + reserve_seconds), id)
  else
    call('ZREM', prefix .. 'due', id)
  end
end
local next_at = call('ZRANGE', prefix .. 'due', 0, 0, 'WITHSCORES')[2] or ''
return {'ok', as_text(now), next_at, is_more and 1 or 0, taken}
