-- Read what the connected workers reported of their Ollama.
--
-- Reads: inventory, inventories; the workers.
--
-- Takes no arguments of its own.
--
-- Returns {'ok', a list of {worker, digest, content, loaded or ''}}.
if is_anything_due() then return {'due'} end

local reports = {}
for _, worker in ipairs(call('SMEMBERS', prefix .. 'inventories')) do
  local connected_until = tonumber(call('ZSCORE', prefix .. 'connected', worker) or '-inf')
  if connected_until > now then
    local report = call('HMGET', prefix .. 'inventory:' .. worker, 'digest', 'content', 'loaded')
    if report[1] then
      reports[#reports + 1] = {worker, report[1], report[2], report[3] or ''}
    end
  end
end
return {'ok', reports}
