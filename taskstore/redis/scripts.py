"""What runs inside Redis: each script is one atomic step. They keep indexes and counts, and know
nothing of how a task may move: that is decided outside, and only written down here.

A task is a hash: `v` its version, `t` its fields as JSON, `r` its request, and what the indexes
need: `s` state, `o` owner, `m` model key, `z` bytes, `c` claims, `k` idempotency key, `f` its
member of `finished`, `n` the number drawn when it was submitted. KEYS[1] is the prefix of all
keys; it has a hash tag, so that all are on one node of a cluster. ARGV begins with the time
(empty for that of Redis), 1 if this is asked again because the answer was lost, and the seconds
for which finished tasks are kept. Numbers that are no integers travel as text, in full.
"""
from __future__ import annotations

from typing import Dict

_COMMON = r"""
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
"""

# channel, version, owner, model key, ttl, bytes, JSON after the times, request, key, limits (4).
_SUBMIT = r"""
if is_due() then return {'due'} end
local version, owner, model, start_in = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local size, rest, request, idem = tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12]
local max_mine, max_queued, max_bytes = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local function known(id)
  local h = call('HMGET', task(id), 't', 'r')
  return {'known', id, h[1], h[2] or ''}
end
local old = idem ~= '' and call('HGET', P .. 'keys', idem)
if old and call('EXISTS', task(old)) == 1 then return known(old) end
local last = tonumber(call('GET', P .. 'last') or 0)
if again then
  for id = last, math.max(1, last - 5000), -1 do
    if call('HGET', task(id), 'n') == version then return known(id) end
  end
end
if owner ~= '' then
  local mine = call('HMGET', P .. 'share:' .. owner, 'queued', 'bytes')
  if tonumber(mine[1] or 0) >= max_mine then return {'mine'} end
  if tonumber(mine[2] or 0) + size > math.floor(max_bytes / 2) then return {'share'} end
end
if counted('queued') >= max_queued then return {'queue'} end
if counted('bytes') - counted('finished_bytes') + size > max_bytes then return {'full'} end
make_room(max_bytes, size, 0, 1000000)
local id = call('INCR', P .. 'last')
local start_by = start_in > 0 and now + start_in or 0
local fields = '{"task_id":' .. id .. ',"submitted_at":' .. text(now)
    .. ',"start_by":' .. text(start_by) .. rest
call('HSET', task(id), 'v', version, 't', fields, 'r', request, 's', 'queued', 'o', owner,
  'm', model, 'z', size, 'c', 0, 'k', idem, 'f', '', 'n', version)
if idem ~= '' then call('HSET', P .. 'keys', idem, id) end
tally(owner, 'queued', 1, size)
set_due(id, start_in > 0 and text(start_by) or '')
offer(id, owner, model)
make_room(max_bytes, 0, 1, 1000)
return {'ok', id, fields, request}
"""

# id, mode (0 for little, 1 with the request).
_READ = r"""
if is_due() then return {'due'} end
local id = ARGV[4]
-- What is another's must look, and take as long, as what is not there.
if ARGV[6] and call('HGET', task(id), 'o') ~= ARGV[6] then return {'gone'} end
local h = call('HMGET', task(id), 'v', 't', ARGV[5] == '1' and 'r' or 'none')
if not h[1] then return {'gone'} end
local run = call('ZRANGE', P .. 'runs:' .. id, -1, -1)[1]
return {'ok', text(now), id, h[1], h[2], h[3] or '', call('HSTRLEN', task(id), 'r'),
  call('STRLEN', P .. 'text:' .. id), run or ''}
"""

# id, claims and offset of who reads: the text is given from there on.
_LOOK = r"""
if is_due() then return {'due'} end
local id = ARGV[4]
if call('HGET', task(id), 'o') ~= ARGV[7] then return {'gone'} end
local h = call('HMGET', task(id), 't', 'r', 's', 'o', 'm', 'c')
local owner, model = h[4], h[5]
local place, workers, anybody, seen_at, took = 0, 0, 0, '', {}
if h[3] == 'queued' then
  place = call('ZCOUNT', P .. 'ready:' .. owner, '-inf', '(' .. id) + 1
  local before, turns = 0, place
  for _, other in ipairs(call('ZRANGE', P .. 'round', 0, -1)) do
    if other == owner then turns = place - 1
    else before = before + math.min(call('ZCARD', P .. 'ready:' .. other), turns) end
  end
  place = before + place
end
local pieces, whole = {}, 0
if not FINAL[h[3]] then
  workers = workers_with(model)
  anybody = call('ZCOUNT', P .. 'connected', '(' .. text(now), '+inf')
  for _, group in ipairs(groups_of(model)) do
    local last = call('ZREVRANGE', P .. 'seen:' .. group, 0, 0, 'WITHSCORES')[2]
    if last and (seen_at == '' or tonumber(last) > tonumber(seen_at)) then seen_at = last end
  end
  took = call('LRANGE', P .. 'took:' .. model, 0, -1)
  whole = call('STRLEN', P .. 'text:' .. id)
  local from = h[6] == ARGV[5] and ARGV[6] or '0'
  if whole > tonumber(from) * 4 then
    local runs = P .. 'runs:' .. id
    pieces = call('ZREVRANGEBYSCORE', runs, from, '-inf', 'LIMIT', 0, 1)
    for _, run in ipairs(call('ZRANGEBYSCORE', runs, '(' .. from, '+inf')) do
      pieces[#pieces + 1] = run
    end
    pieces = {from, call('GETRANGE', P .. 'text:' .. id, tonumber(from) * 4, -1), pieces}
  end
end
return {'ok', text(now), id, h[1], h[2] or '', place, workers, anybody, seen_at, took, whole,
  pieces}
"""

# The channel, reserve seconds, noted (1 for a new claim), worker, connected seconds, group, models.
# The task is put aside so that no two choose the same; whoever chose it takes it with `commit`,
# or else it is due, and ready again, after the reserve.
_CHOOSE = r"""
if is_due() then return {'due'} end
local worker, group = ARGV[7], ARGV[9]
if ARGV[6] == '1' then
  local old = call('HGET', P .. 'groups', worker)
  if old and old ~= group then leave(worker, old) end
  if group ~= 'any' and call('EXISTS', P .. 'until:' .. group) == 0 then
    for n = 10, #ARGV do
      call('SADD', P .. 'has:' .. ARGV[n], group)
      call('SADD', P .. 'group:' .. group, ARGV[n])
    end
  end
  call('HSET', P .. 'groups', worker, group)
  seen(worker, group, now + tonumber(ARGV[8]))
  if call('ZCARD', P .. 'workers') > MAX_WORKERS then
    local first = call('ZPOPMIN', P .. 'workers')[1]
    leave(first, call('HGET', P .. 'groups', first))
    call('HDEL', P .. 'groups', first)
    call('ZREM', P .. 'connected', first)
  end
end
local wanted = {}
for n = 10, #ARGV do wanted[ARGV[n]] = true end
local function is_wanted(model)
  if group == 'any' then return true end
  if wanted[model] == nil then wanted[model] = workers_with(model) == 0 end
  return wanted[model]
end
local function oldest(owner)
  local models, from = P .. 'models:' .. owner, 0
  while true do
    local some = call('ZRANGE', models, from, from + 49, 'WITHSCORES')
    for n = 1, #some, 2 do
      if is_wanted(some[n]) then return some[n + 1], some[n] end
    end
    if #some < 100 then return nil end
    from = from + 50
  end
end
for _, owner in ipairs(call('ZRANGE', P .. 'round', 0, -1)) do
  local id, model = oldest(owner)
  while id do
    call('ZADD', P .. 'round', 'XX', turn(), owner)
    unready(id, owner, model)
    local h = call('HMGET', task(id), 'v', 't', 'r')
    if h[1] then
      call('ZADD', P .. 'due', text(now + tonumber(ARGV[5])), id)
      return {'ok', text(now), id, h[1], h[2], h[3] or '', call('HSTRLEN', task(id), 'r'),
        call('STRLEN', P .. 'text:' .. id), ''}
    end
    id, model = oldest(owner)
  end
end
return {'none'}
"""

# channel, id, version it must have, version it gets, JSON, state, claims, bytes, when it is due,
# whether it is ready, when it finished, worker heard of, until when it is connected, seconds that
# it took, most bytes, more of the text, its runs as start and member by turns.
_COMMIT = r"""
local id, fresh, state = ARGV[5], ARGV[7], ARGV[9]
local size, max_bytes = tonumber(ARGV[11]), tonumber(ARGV[18])
local h = call('HMGET', task(id), 'v', 's', 'o', 'm', 'z', 'c')
if h[1] == fresh then return {'ok'} end
if not h[1] or h[1] ~= ARGV[6] then return {'conflict'} end
local before, owner, model = h[2], h[3], h[4]
local more = ARGV[19]
if more ~= '' then
  local text_key = P .. 'text:' .. id
  local grown = #more + 100 * (#ARGV - 19) / 2
  make_room(max_bytes, grown, 0, 1000)
  if counted('bytes') + grown > max_bytes
      or call('STRLEN', text_key) + #more > MAX_TEXT_BYTES then return {'long'} end
  local old_bytes = text_bytes(id)
  call('APPEND', text_key, more)
  for n = 20, #ARGV, 2 do call('ZADD', P .. 'runs:' .. id, ARGV[n], ARGV[n + 1]) end
  count('bytes', text_bytes(id) - old_bytes)
end
call('HSET', task(id), 'v', fresh, 't', ARGV[8])
set_due(id, ARGV[12])
if ARGV[15] ~= '' then heard(ARGV[15], tonumber(ARGV[16])) end
if before == 'queued' then unready(id, owner, model) end
local changed = before ~= state or h[6] ~= ARGV[10]
if changed or tonumber(h[5]) ~= size then
  tally(owner, before, -1, tonumber(h[5]))
  tally(owner, state, 1, size)
  call('HSET', task(id), 's', state, 'z', size, 'c', ARGV[10])
  if FINAL[state] or h[6] ~= ARGV[10] then drop_text(id) end
end
if changed and FINAL[state] then
  call('HDEL', task(id), 'r')
  local member = string.format('%016d:%s', turn(), id)
  call('ZADD', P .. 'finished', ARGV[14], member)
  call('HSET', task(id), 'f', member)
end
if ARGV[17] ~= '' then
  call('RPUSH', P .. 'took:' .. model, ARGV[17])
  call('LTRIM', P .. 'took:' .. model, -KEPT_PER_MODEL, -1)
  call('ZADD', P .. 'took', turn(), model)
  if call('ZCARD', P .. 'took') > MAX_MODELS then
    call('DEL', P .. 'took:' .. call('ZPOPMIN', P .. 'took')[1])
  end
end
if ARGV[13] == '1' then offer(id, owner, model) end
if changed and FINAL[state] then news('f' .. id)
elseif changed or more ~= '' then news('t' .. id) end
make_room(max_bytes, 0, 1, 1000)
return {'ok'}
"""

# worker, until when it is connected.
_HEARD = r"""
heard(ARGV[4], tonumber(ARGV[5]))
return {'ok'}
"""

# id, version.
_FORGET = r"""
if again and call('EXISTS', task(ARGV[4])) == 0 then return {'ok'} end
if call('HGET', task(ARGV[4]), 'v') ~= ARGV[5] then return {'conflict'} end
forget(ARGV[4])
return {'ok'}
"""

# reserve seconds, most bytes. Who takes what is due does it; nobody else does, for a while.
_TAKE_DUE = r"""
local late = make_room(tonumber(ARGV[5]), 0, 1, 500)
local taken = {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'due', '-inf', text(now), 'LIMIT', 0, 100)) do
  local h = call('HMGET', task(id), 'v', 't')
  if h[1] then
    taken[#taken + 1] = {'ok', text(now), id, h[1], h[2], '', call('HSTRLEN', task(id), 'r'),
      call('STRLEN', P .. 'text:' .. id), '', call('ZSCORE', P .. 'due', id)}
    call('ZADD', P .. 'due', text(now + tonumber(ARGV[4])), id)
  else call('ZREM', P .. 'due', id) end
end
local first = call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')[2]
return {'ok', text(now), first or '', late and 1 or 0, taken}
"""

# id.
_TEXT = r"""
return {'ok', call('GETRANGE', P .. 'text:' .. ARGV[4], 0, -1),
  call('ZRANGE', P .. 'runs:' .. ARGV[4], 0, -1)}
"""

_STATUS = r"""
if is_due() then return {'due'} end
local workers, models = {}, {}
for _, worker in ipairs(call('ZREVRANGE', P .. 'workers', 0, -1)) do
  local group = call('HGET', P .. 'groups', worker)
  if not models[group] then models[group] = call('SMEMBERS', P .. 'group:' .. group) end
  workers[#workers + 1] = {worker, group, models[group],
    call('ZSCORE', P .. 'until:' .. group, worker), call('ZSCORE', P .. 'seen:' .. group, worker)}
end
return {'ok', text(now), counted('queued'), counted('running'), call('ZCARD', P .. 'finished'),
  workers}
"""


def make_scripts(**constants: int) -> Dict[str, str]:
    """The scripts by name, with the constants filled in."""
    bodies = {
        "submit": _SUBMIT, "read": _READ, "look": _LOOK, "choose": _CHOOSE, "commit": _COMMIT,
        "heard": _HEARD, "forget": _FORGET, "take_due": _TAKE_DUE, "text": _TEXT,
        "status": _STATUS,
    }
    scripts = {}
    for name, body in bodies.items():
        script = _COMMON + body
        for constant, value in constants.items():
            script = script.replace(constant, str(value))
        scripts[name] = script
    return scripts
