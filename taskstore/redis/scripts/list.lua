-- Read the newest tasks of an owner, newest first.
--
-- Reads: task, jumps, tasks, ready, round, took, prefetched; the workers through workers.lua.
--
-- ARGV[6]  Owner.
-- ARGV[7]  How many tasks.
-- ARGV[8]  Only tasks with ids below this one; '+inf' for all.
-- ARGV[9]  The states that they may have, to the last argument.
--
-- Returns {'ok', now, connected workers, a list of {fields as JSON, queue position or 0, model}, a
-- list of {model, connected workers with it, when one with it was last seen or '', how many that
-- have it are too old, durations}, the members of `jumps`}.
-- The models are those of tasks that are not final.
local user, limit, before, states = ARGV[6], tonumber(ARGV[7]), ARGV[8], arguments_from(9)

if is_anything_due() then return {'due'} end

local ids = {}
for _, state in ipairs(states) do
  local key = prefix .. 'tasks:' .. state .. ':' .. user
  local max = before == '+inf' and before or '(' .. before
  for _, id in ipairs(call('ZREVRANGEBYSCORE', key, max, '-inf', 'LIMIT', 0, limit)) do
    ids[#ids + 1] = id
  end
end
table.sort(ids, function(one, other) return tonumber(one) > tonumber(other) end)

-- The owners whose turn is before that of this one, and after it, by how many tasks are ready.
local sizes_before, sizes_after
local function count_others()
  sizes_before, sizes_after = {}, {}
  local sizes = sizes_before
  for _, other in ipairs(call('ZRANGE', prefix .. 'round', 0, -1)) do
    if other == user then
      sizes = sizes_after
    else
      sizes[#sizes + 1] = call('ZCARD', prefix .. 'ready:' .. other)
    end
  end
end

-- The same rule as in look.lua.
local function queue_position(id, fields)
  local reserved = prefetched_position(id)
  if reserved then return reserved end
  if not sizes_before then count_others() end
  local own = own_position(id, user, fields)
  local position = call('ZCARD', prefix .. 'prefetched') + own
  for _, size in ipairs(sizes_before) do position = position + math.min(size, own) end
  for _, size in ipairs(sizes_after) do position = position + math.min(size, own - 1) end
  return position
end

local models, is_listed = {}, {}
local function list_model(model)
  if is_listed[model] then return end
  is_listed[model] = true
  local connected = count_connected_with(model)
  models[#models + 1] = {model, connected, last_seen_at(model),
    connected == 0 and count_too_old(model) or 0,
    call('LRANGE', prefix .. 'took:' .. model, 0, -1)}
end

local tasks = {}
for n = 1, math.min(limit, #ids) do
  local id = ids[n]
  local task = call('HMGET', task_key(id), 'l', 's', 'm')
  local fields, state, model = task[1] or call('HGET', task_key(id), 't'), task[2], task[3]
  if not FINAL[state] then list_model(model) end
  tasks[n] = {fields, state == 'queued' and queue_position(id, fields) or 0, model}
end
return {'ok', as_text(now), count_connected('connected'), tasks, models,
  call('LRANGE', prefix .. 'jumps', 0, -1)}
