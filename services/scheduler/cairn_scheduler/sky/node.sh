# What a node of a cluster runs for Cairn. ATTEMPT, TOOL and NEEDS are set above this.
mask=$(umask)
umask 077
home=$(getent passwd "$(id -u)" 2>/dev/null | cut -d: -f6)
[ -d "$home" ] && [ -w "$home" ] || home=$HOME
python=
for name in python3 python3.13 python3.12 python3.11; do
  if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$name; break; fi
done
if [ -z "$python" ]; then
  echo "cairn: this node has no Python 3.11 or newer; give an image that has one (resources.image_id)" >&2
  exit 91
fi
tool=$home/.cairn/sdk/$TOOL-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ ! -e "$tool/ok" ]; then
  mkdir -p "$home/.cairn/sdk"
  (
    flock 9
    [ -e "$tool/ok" ] && exit 0
    rm -rf "$tool"
    # Not on top of the job's own environment: what that one holds must not reach the runner.
    "$python" -m venv "$tool" &&
      eval "\"$tool/bin/python\" -m pip install -q --no-input --disable-pip-version-check $NEEDS" &&
      base64 -d > "$tool/cairn.zip" << 'END-OF-TOOL' &&
@TOOL@
END-OF-TOOL
      "$tool/bin/python" -c 'import sys, sysconfig, zipfile
zipfile.ZipFile(sys.argv[1]).extractall(sysconfig.get_path("purelib"))' "$tool/cairn.zip" &&
      touch "$tool/ok"
  ) 9> "$home/.cairn/sdk/lock" || {
    echo "cairn: the runner could not be installed on this node; its words are above" >&2
    exit 92
  }
fi
# The job's own Python finds the SDK behind everything that it has itself.
"$python" - "$tool" << 'END-OF-PTH' 2>/dev/null || true
import os, sys, sysconfig
own = sysconfig.get_path("purelib")
if sys.prefix != sys.base_prefix or os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
    with open(os.path.join(own, "zz_cairn_sdk.pth"), "w") as file:
        file.write("%s/lib/python%d.%d/site-packages\n" % (sys.argv[1], *sys.version_info[:2]))
END-OF-PTH
folder=$HOME/.cairn/attempts/$ATTEMPT/${SKYPILOT_NODE_RANK:-0}
mkdir -p "$folder"
printf '%s' "$CAIRN_NODE_TOKEN" > "$folder/token"
base64 -d << 'END-OF-LAUNCH' | gzip -d > "$folder/launch.json"
@LAUNCH@
END-OF-LAUNCH
umask "$mask"
unset CAIRN_NODE_TOKEN
export PATH="$PATH:$tool/bin"
exec "$tool/bin/python" -P -m cairn._runner --node "$folder"
