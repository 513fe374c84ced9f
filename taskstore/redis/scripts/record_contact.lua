-- worker, until when it is connected.
heard(ARGV[4], tonumber(ARGV[5]))
return {'ok'}
