-- Record that a Manage Server is alive, or that it ends, and look for tasks whose clients waited at
-- one that is dead. They stay in `wanted:` until they are final, so that none is lost if the
-- process that runs this dies, too.
--
-- Reads and writes: servers, wanted. Reads: task, jumps.
--
-- ARGV[6]  The Manage Server.
-- ARGV[7]  '1' when it ends.
-- ARGV[8]  After how many seconds of silence another one counts as dead.
--
-- Returns {'ok', a list of {server, ids of some of its clients' tasks}, the members of `jumps`}.
local mine, is_ending, max_silence_seconds = ARGV[6], ARGV[7] == '1', tonumber(ARGV[8])
local TASKS_AT_ONCE = 100

local function take_wanted(server)
  local key, ids = prefix .. 'wanted:' .. server, {}
  for _, id in ipairs(call('SRANDMEMBER', key, TASKS_AT_ONCE)) do
    if call('HGET', task_key(id), 'p') == server then
      ids[#ids + 1] = id
    else
      call('SREM', key, id)
    end
  end
  return ids
end

call('ZADD', prefix .. 'servers', is_ending and '-inf' or as_text(now), mine)
local dead = call('ZRANGEBYSCORE', prefix .. 'servers', '-inf', as_text(now - max_silence_seconds))
local found = {}
for _, server in ipairs(dead) do
  local ids = take_wanted(server)
  if #ids > 0 then found[#found + 1] = {server, ids} end
  if call('EXISTS', prefix .. 'wanted:' .. server) == 0 then
    call('ZREM', prefix .. 'servers', server)
  end
end
return {'ok', found, call('LRANGE', prefix .. 'jumps', 0, -1)}
