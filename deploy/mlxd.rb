# A Homebrew formula, for macOS on Apple silicon. It has not been run on a Mac yet. At its end brew
# writes its paths into libraries; those of wheels may have no room for them. If it reports that it
# failed to fix their linkage, mlxd is installed nevertheless: they need no path of Homebrew's.
#
# What is missing: the project has no address on the net, so there is no `homepage`, and no release
# whose `url` and `sha256` could stand here. Until then the formula installs the archive that
# `git archive` makes of a checkout. In the checkout:
#
#   git archive --prefix=mlxd-0.1.0/ -o dist/mlxd-0.1.0.tar.gz HEAD     # after `mkdir -p dist`
#   brew tap-new --no-git local/mlxd
#   cp deploy/mlxd.rb "$(brew --repository local/mlxd)/Formula/"
#   HOMEBREW_MLXD_ARCHIVE="$PWD/dist/mlxd-0.1.0.tar.gz" brew install local/mlxd/mlxd
#
# MLX and the other dependencies are the wheels of their authors, in the versions of
# constraints.txt. Homebrew's own bottle of MLX may have been built without the kernels of newer
# chips (rMLX issue 274, omlx issue 2212: prefill some 3.8 times slower), so it is not used.
class Mlxd < Formula
  desc "OpenAI-compatible inference daemon for Apple MLX"
  url "file://#{ENV.fetch("HOMEBREW_MLXD_ARCHIVE", "/nonexistent/mlxd-0.1.0.tar.gz")}"
  version "0.1.0"
  license "MIT"

  depends_on arch: :arm64
  depends_on macos: :sonoma # 14: MLX has no wheels for older ones
  depends_on "python@3.13"

  def install
    system Formula["python@3.13"].opt_bin/"python3.13", "-m", "venv", libexec
    system libexec/"bin/python", "-m", "pip", "install", "--disable-pip-version-check",
           "--constraint", buildpath/"constraints.txt", buildpath
    bin.install_symlink libexec/"bin/mlxd"
  end

  def caveats
    <<~EOS
      `mlxd agent install` runs it from login on; `mlxd agent restart` after an upgrade.
      Keys, settings, models and caches are in your home folder, and stay there.
    EOS
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/mlxd --version")
  end
end
