local P = KEYS[1]
local call = redis.call
local function text(number) return string.format('%.17g', number) end
local now
if ARGV[1] ~= '' then now = tonumber(ARGV[1]) else
  local t = call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local again, ttl = ARGV[2] == '1', tonumber(ARGV[3])

local FINAL = {completed = true, failed = true, cancelled = true}
local function task(id) return P .. 'task:' .. id end
local function lane(owner, model) return P .. 'lane:' .. #owner .. ':' .. owner .. ':' .. model end
local function turn() return call('INCR', P .. 'turn') end
local function count(field, by) return call('HINCRBY', P .. 'counts', field, by) end
local function counted(field) return tonumber(call('HGET', P .. 'counts', field) or 0) end
local function news(text) call('PUBLISH', ARGV[4], text) end

local function oldest_finished()
  local first = call('ZRANGE', P .. 'finished', 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- Whether time has made something due, which must be done before anything else.
local function is_due()
  if call('ZCOUNT', P .. 'due', '-inf', text(now)) > 0 then return true end
  local member, at = oldest_finished()
  return member and at <= now - ttl
end

-- Owners take turns in `round`; each has its models in `models`, by their oldest task.
local function unready(id, owner, model)
  if call('ZREM', P .. 'ready:' .. owner, id) == 0 then return end
  call('ZREM', lane(owner, model), id)
  local first = call('ZRANGE', lane(owner, model), 0, 0)[1]
  if first then call('ZADD', P .. 'models:' .. owner, first, model)
  else call('ZREM', P .. 'models:' .. owner, model) end
  if call('EXISTS', P .. 'ready:' .. owner) == 0 then call('ZREM', P .. 'round', owner) end
end

local function ready(id, owner, model)
  call('ZADD', P .. 'ready:' .. owner, id, id)
  call('ZADD', lane(owner, model), id, id)
  call('ZADD', P .. 'models:' .. owner, call('ZRANGE', lane(owner, model), 0, 0)[1], model)
  if not call('ZSCORE', P .. 'round', owner) then call('ZADD', P .. 'round', turn(), owner) end
end

local function share(owner, state, sign, size)
  if owner == '' then return end
  local key = P .. 'share:' .. owner
  if state == 'queued' then call('HINCRBY', key, 'queued', sign) end
  call('HINCRBY', key, 'bytes', sign * size)
  if call('HINCRBY', key, 'unfinished', sign) == 0 then call('DEL', key) end
end

local function tally(owner, state, sign, size)
  count('bytes', sign * size)
  if FINAL[state] then count('finished_bytes', sign * size)
  else
    count(state, sign)
    share(owner, state, sign, size)
  end
end

local function text_bytes(id)
  return call('STRLEN', P .. 'text:' .. id) + 100 * call('ZCARD', P .. 'runs:' .. id)
end

local function drop_text(id)
  count('bytes', 0 - text_bytes(id))
  call('UNLINK', P .. 'text:' .. id, P .. 'runs:' .. id)
end

local function forget(id)
  local h = call('HMGET', task(id), 's', 'o', 'z', 'k', 'f')
  tally(h[2], h[1], -1, tonumber(h[3]))
  call('ZREM', P .. 'finished', h[5])
  if h[4] ~= '' then call('HDEL', P .. 'keys', h[4]) end
  call('UNLINK', task(id))
end

-- Forget finished tasks, oldest first: what is too old, and what bytes are wanted of.
local function make_room(max_bytes, wanted, keep, at_most)
  for _ = 1, at_most do
    local member, at = oldest_finished()
    if not member then return false end
    local full = counted('bytes') + wanted > max_bytes
        and call('ZCARD', P .. 'finished') > keep
    if at > now - ttl and not full then return false end
    forget(string.match(member, ':(%d+)$'))
  end
  return true
end

-- Workers with the same models are a group; `any` is that of those who have not said.
local function groups_of(model)
  local groups = call('SMEMBERS', P .. 'has:' .. model)
  groups[#groups + 1] = 'any'
  return groups
end

local function workers_with(model)
  local number = 0
  for _, group in ipairs(groups_of(model)) do
    number = number + call('ZCOUNT', P .. 'until:' .. group, '(' .. text(now), '+inf')
  end
  return number
end

local function leave(worker, group)
  call('ZREM', P .. 'until:' .. group, worker)
  call('ZREM', P .. 'seen:' .. group, worker)
  if call('EXISTS', P .. 'until:' .. group) == 0 then
    for _, model in ipairs(call('SMEMBERS', P .. 'group:' .. group)) do
      call('SREM', P .. 'has:' .. model, group)
    end
    call('DEL', P .. 'group:' .. group)
  end
end

local function seen(worker, group, till)
  call('ZADD', P .. 'until:' .. group, text(till), worker)
  call('ZADD', P .. 'seen:' .. group, text(now), worker)
  call('ZADD', P .. 'connected', text(till), worker)
  call('ZADD', P .. 'workers', turn(), worker)
end

local function heard(worker, till)
  local group = call('HGET', P .. 'groups', worker)
  if group then
    seen(worker, group, math.max(till, tonumber(call('ZSCORE', P .. 'until:' .. group, worker))))
  end
end

local function set_due(id, at)
  if at == '' then call('ZREM', P .. 'due', id) return end
  local first = call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')[2]
  call('ZADD', P .. 'due', at, id)
  if not first or tonumber(at) < tonumber(first) then news('d') end
end

local function offer(id, owner, model)
  ready(id, owner, model)
  news('r' .. (workers_with(model) == 0 and '1' or '0') .. model)
end
