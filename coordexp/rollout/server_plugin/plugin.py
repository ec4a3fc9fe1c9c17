"""The file that `--external_plugins` names: ms-swift runs it in the app's process and in each worker. ROLL-013.

Importing it installs the hooks; everything else is in `install`.
"""

from __future__ import annotations

from coordexp.rollout.server_plugin.install import install_plugin

install_plugin()
