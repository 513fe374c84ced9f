-- The Manage Servers whose clients wait for tasks, shared by all scripts.

-- Remember whose client waits for a task; an empty server stands for none.
local function set_server(id, old_server, server)
  if server == old_server then return end
  if old_server ~= '' then call('SREM', prefix .. 'wanted:' .. old_server, id) end
  if server ~= '' then
    call('SADD', prefix .. 'wanted:' .. server, id)
    -- It may die before its first beat.
    call('ZADD', prefix .. 'servers', 'NX', as_text(now), server)
  end
  call('HSET', task_key(id), 'p', server)
end

-- What a notification tells the readers of a running task, who need not look then: its fields, and
-- the text that begins at an offset, with its runs. Empty if that is too long.
local function news(fields, offset, text, runs)
  local starts = table.concat(runs, ' ')
  if #starts + #fields + #text > MAX_NEWS_BYTES then return '' end
  return ' ' .. as_text(now) .. ' ' .. as_text(next_turn()) .. ' ' .. as_text(offset) .. ' '
    .. #fields .. ' ' .. starts .. '\n' .. fields .. text
end
