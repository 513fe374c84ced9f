-- Set when to look again whether any worker has a model.
--
-- Writes: model_alarms.
--
-- ARGV[6]  Model, as tasks.model_key gives it.
-- ARGV[7]  The time.
--
-- Returns {'ok'}.
local model, at = ARGV[6], ARGV[7]

call('ZADD', prefix .. 'model_alarms', at, model)
return {'ok'}
