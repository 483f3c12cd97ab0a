# Makes `uv` available to the script that sources this: the one on PATH, else one of our own.
# The caller stands in the root of the repository.
if ! command -v uv >/dev/null 2>&1; then
  lambent_uv="$PWD/.lambent/uv"
  if [ ! -x "$lambent_uv/bin/uv" ]; then
    if ! command -v python3 >/dev/null 2>&1; then
      echo "Python 3.11 or newer is needed (python3 is not on PATH)." >&2
      exit 1
    fi
    echo "Getting uv into .lambent/uv (once) ..." >&2
    rm -rf "$lambent_uv"
    if ! python3 -m venv "$lambent_uv" || ! "$lambent_uv/bin/pip" install --quiet uv; then
      rm -rf "$lambent_uv"
      echo "uv could not be installed; see https://docs.astral.sh/uv/ for other ways." >&2
      exit 1
    fi
  fi
  PATH="$lambent_uv/bin:$PATH"
  export PATH
fi
