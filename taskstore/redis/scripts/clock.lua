-- The time of the store, shared by all scripts, and what is due.
--
-- The store's clock follows that of Redis, but never goes back, and stands still when no Manage
-- Server has run a script for a while: each process runs one every second, so that a longer gap
-- means that none was there, that Redis was not, or that somebody set the clock of Redis. After a
-- gap all leases start anew, because nobody could renew them.
local SAVE_SECONDS = 0.5

local function redis_time()
  if string.sub(ARGV[3], 1, 1) == '~' then return tonumber(string.sub(ARGV[3], 2)) end
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- Returns false when Redis cannot write: then the clock stands still. Reading must go on.
local function save_clock(at, shown)
  local saved = redis.pcall('HSET', prefix .. 'clock', 'now', as_text(at), 'redis', as_text(shown))
  return not (type(saved) == 'table' and saved.err)
end

-- The same as WallTimes.note in wall_times.py, which says what this is for.
local function note_jump(at, shown)
  local last = call('LINDEX', prefix .. 'jumps', -1)
  local known = last and tonumber(string.match(last, '%S+$')) or 0
  if math.abs(shown - at - known) < MIN_JUMP_SECONDS then return end
  redis.pcall('RPUSH', prefix .. 'jumps', as_text(at) .. ' ' .. as_text(shown - at))
  redis.pcall('LTRIM', prefix .. 'jumps', -MAX_JUMPS, -1)
end

local function current_time()
  if string.sub(ARGV[3], 1, 1) == '=' then return tonumber(string.sub(ARGV[3], 2)) end
  local shown = redis_time()
  local saved = call('HMGET', prefix .. 'clock', 'now', 'redis')
  if not saved[1] then
    save_clock(shown, shown)
    return shown
  end
  local saved_now, passed = tonumber(saved[1]), shown - tonumber(saved[2])
  if passed > MAX_PULSE_GAP_SECONDS then
    if save_clock(saved_now, shown) then
      note_jump(saved_now, shown)
      call('SUNIONSTORE', prefix .. 'restarting', prefix .. 'running', prefix .. 'restarting')
    end
    return saved_now
  end
  local at = saved_now + math.max(0, passed)
  if passed >= 0 and passed < SAVE_SECONDS then return at end
  if not save_clock(at, shown) then return saved_now end
  note_jump(at, shown)
  return at
end
local now = current_time()

local function is_any_before_now(key)
  return call('ZCOUNT', prefix .. key, '-inf', as_text(now)) > 0
end

local function is_anything_due()
  if call('EXISTS', prefix .. 'restarting') == 1 then return true end
  if is_any_before_now('due') or is_any_before_now('model_alarms') then return true end
  local member, finished_at = first_of('finished')
  return member and finished_at <= now - result_ttl_seconds
end

-- An empty `due_at` means never. Each process looks anyway, every TICK_SECONDS, when something is
-- due next.
local function set_due(id, due_at)
  if due_at == '' then call('ZREM', prefix .. 'due', id) return end
  if tonumber(due_at) < now + TICK_SECONDS then
    local _, first_at = first_of('due')
    if not first_at or tonumber(due_at) < first_at then publish('d') end
  end
  call('ZADD', prefix .. 'due', due_at, id)
end

-- A task as `Stored` in codec.py reads it; nil if there is none.
local function stored_task(id, with_request)
  local fields = call('HMGET', task_key(id), 'v', 't')
  if not fields[1] then return nil end
  local request = with_request and call('HGET', task_key(id), 'r') or ''
  local request_bytes = with_request and #request or call('HSTRLEN', task_key(id), 'r')
  local bytes = call('STRLEN', prefix .. 'text:' .. id)
  local last_run = bytes > 0 and call('ZRANGE', prefix .. 'runs:' .. id, -1, -1)[1] or ''
  return {as_text(now), fields[1], fields[2], request, request_bytes, bytes, last_run}
end
