-- Count a worker as disconnected until its next contact, and end its waiting claims. Python then
-- releases its tasks.
--
-- Reads and writes: the workers through workers.lua.
--
-- ARGV[6]  Worker; or how the workers of the holder begin that leave.
-- ARGV[7]  Its holder.
-- ARGV[8]  '1' when all workers that begin so leave.
--
-- Returns {'ok', a list of {worker, ids of its tasks}}.
local beginning, holder, is_beginning = ARGV[6], ARGV[7], ARGV[8] == '1'

local function leaving()
  if not is_beginning then return {beginning} end
  local found, is_found = {}, {}
  -- A worker that is forgotten may still have tasks, and then is connected.
  for _, key in ipairs({'workers:' .. holder, 'connected'}) do
    for _, worker in ipairs(call('ZRANGE', prefix .. key, 0, -1)) do
      if string.sub(worker, 1, #beginning) == beginning and not is_found[worker] then
        is_found[worker] = true
        found[#found + 1] = worker
      end
    end
  end
  table.sort(found)
  return found
end

if is_anything_due() then return {'due'} end
local left = {}
for _, worker in ipairs(leaving()) do
  touch(worker, holder)
  end_claims(worker)
  left[#left + 1] = {worker, held_tasks(worker)}
  forget_contact(worker)
  update_connected(worker)
end
return {'ok', left}
