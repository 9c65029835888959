"""deploy/: systemd takes the unit, the Dockerfile keeps its rules and its steps run, compose names what is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.serve.config import ServeConfig


@pytest.fixture
def deploy(root: Path) -> Path:
    return root / "deploy"


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of a Dockerfile, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def rest(found: list[tuple[str, str]], name: str) -> list[str]:
    return [said for instruction, said in found if instruction == name]


def unit(text: str) -> dict[str, list[str]]:
    """Every key of a systemd unit with its values, in order."""
    keys: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            keys.setdefault(key, []).append(value)
    return keys


def test_the_unit_is_understood_and_exposes_little(deploy: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("needs systemd-analyze")
    text = (deploy / "weft.service").read_text(encoding="utf-8")
    file = tmp_path / "weft.service"  # the command need not be installed here
    file.write_text(text.replace("/opt/weft/bin/weft serve", "/bin/true serve"))
    checked = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    judged = subprocess.run([analyze, "security", "--offline=yes", str(file)], capture_output=True, text=True)
    exposure = re.search(r"exposure level for weft\.service: ([0-9.]+)", judged.stdout)
    if exposure is None:
        pytest.skip(f"systemd-analyze cannot judge offline here: {judged.stderr.strip()}")
    assert float(exposure[1]) <= 2.0


def test_the_unit_lets_the_server_end_its_jobs_before_it_is_killed(deploy: Path) -> None:
    keys = unit((deploy / "weft.service").read_text(encoding="utf-8"))
    assert keys["KillMode"] == ["mixed"]
    assert float(keys["TimeoutStopSec"][0]) > 2 * ServeConfig().drain_seconds
    assert keys["DynamicUser"] == ["yes"] and keys["ProtectSystem"] == ["strict"]


def test_the_dockerfile_keeps_the_rules(deploy: Path, root: Path) -> None:
    text = (deploy / "Dockerfile").read_text(encoding="utf-8")
    found = instructions(text)
    known = {"FROM", "WORKDIR", "COPY", "ARG", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
             "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {name for name, _ in found} <= known
    images = [said.split(" ")[0] for said in rest(found, "FROM")]
    assert len(set(images)) == 1 and re.fullmatch(r"python:3\.\d+-slim-\w+", images[0])  # named, never `latest`
    final = found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", rest(final, "USER")[-1])  # a number: others can see it is not root
    before_user = [name for name, _ in final[: [name for name, _ in final].index("USER")]]
    assert before_user.count("RUN") == 2 and "CMD" not in before_user
    for name in ("ENTRYPOINT", "CMD"):
        assert all(isinstance(part, str) for part in json.loads(rest(final, name)[0]))
    for sources in (said.split()[:-1] for said in rest(found, "COPY") if not said.startswith("--from")):
        for source in sources:
            assert (root / source).exists(), source
            assert f"!{source.removeprefix('./')}" in (deploy / "Dockerfile.dockerignore").read_text().splitlines()
    installs = [said for said in rest(found, "RUN") if "pip" in said]
    assert installs and all("-c constraints.txt" in said and "--no-cache-dir" in said for said in installs)
    assert not re.search(r"(?i)password|token|secret|sk-", text)
    assert all(re.fullmatch(r"PATH|PYTHONUNBUFFERED|HOME|WEFT_(DATA|HOST|PORT)", n) for n in environment(final))


def environment(found: list[tuple[str, str]]) -> dict[str, str]:
    return dict(pair.split("=", 1) for said in rest(found, "ENV") for pair in said.split())


def health(found: list[tuple[str, str]]) -> list[str]:
    return json.loads(rest(found, "HEALTHCHECK")[0].split("CMD ", 1)[1])


def test_the_health_check_tells_a_server_from_none(deploy: Path, tmp_path: Path) -> None:
    from tests.web.conftest import listening

    command = health(instructions((deploy / "Dockerfile").read_text(encoding="utf-8")))

    def ask(port: str) -> int:
        python = [sys.executable, "-S", *command[1:]]
        return subprocess.run(python, env={"WEFT_PORT": port}, capture_output=True).returncode

    with listening(tmp_path / "data") as (_, address):
        assert ask(address.rsplit(":", 1)[1]) == 0
    assert ask("9") != 0


def test_what_is_set_for_the_server_is_a_setting_of_it(deploy: Path) -> None:
    known = {f"WEFT_{key.upper()}" for key in ServeConfig.model_fields} | {"WEFT_DATABASE_URL"}
    for file in deploy.iterdir():
        named = set(re.findall(r"\bWEFT_[A-Z_]+", file.read_text(encoding="utf-8")))
        assert named <= known, file.name


def test_compose_starts_the_database_first_and_lets_nobody_else_in(deploy: Path) -> None:
    compose: dict[str, Any] = yaml.safe_load((deploy / "compose.yaml").read_text(encoding="utf-8"))
    weft, database = compose["services"]["weft"], compose["services"]["database"]
    assert (deploy / weft["build"]["context"] / weft["build"]["dockerfile"]).resolve() == deploy / "Dockerfile"
    assert weft["depends_on"] == {"database": {"condition": "service_healthy"}} and database["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in weft["ports"]) and "ports" not in database
    assert weft["read_only"] and weft["cap_drop"] == ["ALL"]
    url = weft["environment"]["WEFT_DATABASE_URL"]
    user, name = database["environment"]["POSTGRES_USER"], database["environment"]["POSTGRES_DB"]
    assert url.startswith(f"postgresql://{user}:${{POSTGRES_PASSWORD:?") and url.endswith(f"@database/{name}")
    mounted = {mount.split(":")[0] for service in (weft, database) for mount in service["volumes"]}
    assert mounted == set(compose["volumes"])
    seconds = float(weft["stop_grace_period"].removesuffix("s"))
    assert seconds > 2 * ServeConfig().drain_seconds


@pytest.mark.slow
def test_the_dockerfiles_steps_make_a_server_in_a_plain_environment(deploy: Path, root: Path, tmp_path: Path) -> None:
    """Its COPY and RUN lines with /opt/weft and /src in a folder, then its command and its health check."""
    found = instructions((deploy / "Dockerfile").read_text(encoding="utf-8"))
    source, target, data = tmp_path / "src", tmp_path / "weft", tmp_path / "data"
    source.mkdir()
    for said in rest(found, "COPY"):
        for name in [] if said.startswith("--from") else said.split()[:-1]:
            copy = shutil.copytree if (root / name).is_dir() else shutil.copy
            copy(root / name, source / name)
    for step in rest(found, "RUN"):
        if "/opt/weft" not in step:
            continue  # users and folders of the image
        command = step.replace("/opt/weft", str(target)).replace("python -m venv", f"{sys.executable} -m venv")
        done = subprocess.run(["sh", "-ec", command], cwd=source, capture_output=True, text=True)
        if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
            pytest.skip("needs a package index")
        assert done.returncode == 0, done.stderr[-2000:]
    own = environment(found) | {"WEFT_DATA": str(data), "WEFT_PORT": "18765", "HOME": str(tmp_path)}
    own["PATH"] = f"{target}/bin{os.pathsep}{os.environ['PATH']}"
    start = json.loads(rest(found, "ENTRYPOINT")[0]) + json.loads(rest(found, "CMD")[0])
    refused = subprocess.run(start, env=own, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "weft keys create NAME" in refused.stderr
    made = subprocess.run([start[0], "keys", "create", "k"], env=own, cwd=tmp_path, capture_output=True, text=True)
    assert made.stdout.startswith("weft-sk-"), made.stderr
    server = subprocess.Popen(start, env=own, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while subprocess.run(health(found), env=own, capture_output=True).returncode:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.5)
    finally:
        server.terminate()
        assert server.wait(90) == 0
