-- Store what a worker reports of its Ollama, if the worker is known, and forget what others have
-- reported that were in contact longest ago, until there is room for it.
--
-- Reads and writes: inventory, inventories, counts; the workers through workers.lua.
--
-- ARGV[6]  Worker.
-- ARGV[7]  Its holder.
-- ARGV[8]  '1' when this is a contact of its own, and no part of a claim.
-- ARGV[9]  A field of inventory:<worker>, followed by its value; and so on to the last argument.
--          Without any, nothing changes.
--
-- Returns {'ok', digest of its inventory or ''}.
local worker, holder, is_contact, fields = ARGV[6], ARGV[7], ARGV[8] == '1', arguments_from(9)
local key = prefix .. 'inventory:' .. worker

local function is_news()
  for n = 1, #fields, 2 do
    if call('HGET', key, fields[n]) ~= fields[n + 1] then return true end
  end
  return false
end

-- The same rule as in memory/inventories.py; compared by tests/store/test_redis_histories.py.
local function forget_surplus()
  local reported_at = {}
  for _, other in ipairs(call('SMEMBERS', prefix .. 'inventories')) do
    local group = call('HGET', prefix .. 'groups', other)
    reported_at[#reported_at + 1] = {tonumber(call('ZSCORE', prefix .. 'seen:' .. group, other)),
      other}
  end
  table.sort(reported_at, function(one, other)
    return one[1] < other[1] or one[1] == other[1] and one[2] < other[2]
  end)
  for _, surplus in ipairs(reported_at) do
    if get_counts('inventory_bytes') <= MAX_INVENTORY_BYTES then return end
    forget_report(surplus[2])
  end
end

local function store_report()
  local old_bytes = report_bytes(worker)
  call('HSET', key, unpack(fields))
  call('SADD', prefix .. 'inventories', worker)
  add_to_count('inventory_bytes', report_bytes(worker) - old_bytes)
  if get_counts('inventory_bytes') > MAX_INVENTORY_BYTES then forget_surplus() end
end

if is_contact then
  record_contact(worker, holder)
  update_connected(worker)
end
if is_news() and call('HEXISTS', prefix .. 'groups', worker) == 1 then store_report() end
return {'ok', call('HGET', key, 'digest') or ''}
