#!/bin/sh
# Does its work and tells ann how it went: a notification that waits until she is there.
#
# In a crontab, with the gateway's API token in the environment:
#
#   TRIO_GATEWAY_API_TOKEN=…
#   TRIO_GATEWAY_URL=http://127.0.0.1:3000
#   15 3 * * * /srv/nightly_backup.sh
set -u

if output=$(tar -czf "${BACKUP:-/var/backups/srv.tar.gz}" "${SOURCE:-/srv}" 2>&1); then
  title="The backup is done"
else
  title="The backup has failed"
fi
exec "${PYTHON:-python3}" -m trio_gateway notify ann "$title" --body "$output"
