-- Since when tasks of an owner wait because workers prefer others, shared by all scripts. The same
-- rules as in memory/passed_over.py; compared by tests/store/test_redis_histories.py.
--
-- A key has an entry for each time at which a later task went before earlier ones of its kind: the
-- highest order that had done so by then. Times and orders both increase.

-- Times are kept to this fraction of the limit.
local PASSED_OVER_STEPS = 32

-- Whether a task must not be passed over, now or any longer.
local function is_passed_over_too_long(key, order, limit_seconds)
  local since = call('ZRANGEBYSCORE', key, '(' .. as_text(order), '+inf', 'LIMIT', 0, 1)[1]
  return now - tonumber(since or now) >= limit_seconds
end

-- Note that a task goes before others; `first` is the lowest order of its kind in the queue.
local function record_passing_over(key, order, first, limit_seconds)
  call('ZREMRANGEBYSCORE', key, '-inf', as_text(first))
  -- All that was passed over at an earlier time than these is due anyway.
  local times = call('ZRANGE', key, 0, -1)
  for n = 1, #times - 1 do
    if tonumber(times[n + 1]) > now - limit_seconds then break end
    call('ZREM', key, times[n])
  end
  local last = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  if last[1] and order <= tonumber(last[2]) then return end
  if last[1] and now - tonumber(last[1]) < limit_seconds / PASSED_OVER_STEPS then
    call('ZADD', key, as_text(order), last[1])
  else
    call('ZADD', key, as_text(order), as_text(now))
  end
end
