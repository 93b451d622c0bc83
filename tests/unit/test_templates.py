"""Templates, rendered by Jinja as Ansible would."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from pathlib import Path

import jinja2
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def unit(**service: object) -> list[str]:
    """Return the lines of the systemd unit of a service."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"comment": lambda text: f"# {text}", "bool": bool}
    defaults = yaml.safe_load((ROOT / "roles" / "service" / "defaults" / "main.yml").read_text())
    given = {"service_name": "x", "service_description": "X", "service_command": "/x", "service_user": "u"}
    template = environment.from_string((ROOT / "roles/service/templates/unit.service.j2").read_text())
    private = {"__service_markers": ["/run/x/abc", "/run/x/read-def"]}
    filled = template.render(ansible_managed="managed", **{**defaults, **given, **private, **service})
    return filled.splitlines()


def test_a_service_without_devices_gets_the_whole_hardening():
    lines = unit()
    for line in ("PrivateDevices=true", "ProtectClock=true", "NoNewPrivileges=true", "CapabilityBoundingSet="):
        assert line in lines


def test_a_service_with_a_gpu_sees_its_devices():
    """systemd before 252 turns ProtectClock into a list of allowed devices that hides /dev/nvidia*."""
    lines = unit(service_devices=True)
    assert "PrivateDevices=true" not in lines
    assert "ProtectClock=true" not in lines
    assert "ExecStartPre=-+/usr/bin/nvidia-modprobe -c 0 -u" in lines
    assert "ProtectSystem=strict" in lines


def test_a_unit_names_its_inputs_by_a_file():
    assert "ExecStartPre=/usr/bin/touch /run/x/abc /run/x/read-def" in unit()


def test_a_reload_leaves_the_mark_of_what_was_read():
    lines = unit(service_reload="/bin/kill -HUP $MAINPID")
    reloads = [line for line in lines if line.startswith("ExecReload=")]
    assert reloads[0] == "ExecReload=/bin/kill -HUP $MAINPID"
    assert reloads[1].endswith("touch /run/x/read-def'")
    assert "ExecReload" not in "".join(unit())


def test_a_low_port_brings_one_capability():
    lines = unit(service_capabilities=["CAP_NET_BIND_SERVICE"])
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in lines
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in lines


def test_an_unconfined_service_has_no_sandbox_and_all_else():
    confined, free = unit(), unit(service_unconfined=True)
    assert free[-4:] == ["UMask=0077", "", "[Install]", "WantedBy=multi-user.target"]
    assert "Restart=on-failure" in free and "User=u" in free
    dropped = {line.split("=")[0] for line in confined} - {line.split("=")[0] for line in free}
    assert {
        "CapabilityBoundingSet",
        "NoNewPrivileges",
        "ProtectSystem",
        "PrivateDevices",
        "SystemCallFilter",
    } <= dropped
    assert not [line for line in free if line.startswith(("Protect", "Restrict", "Private", "Capability"))]


def supervised(template: str, **service: object) -> list[str]:
    """Return the lines of a file that the role service writes where there is no systemd."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"comment": lambda text: f"# {text}"}
    defaults = yaml.safe_load((ROOT / "roles" / "service" / "defaults" / "main.yml").read_text())
    given = {"service_name": "x", "service_description": "X", "service_install_dir": "/opt/g"}
    given |= {"service_config_dir": "/etc/g", "service_log_dir": "/var/log/g", "ansible_managed": "managed"}
    text = (ROOT / "roles" / "service" / "templates" / template).read_text()
    return environment.from_string(text).render(**{**defaults, **given, **service}).splitlines()


def test_a_program_is_started_again_unless_it_ended_well_was_configured_wrong_or_failed_too_often():
    lines = supervised("program.ini.j2", service_stop_seconds=30)
    for line in (
        "command=/usr/bin/python3 -IB /opt/g/ctl/glmbox_ctl/launch.py /etc/g/x.json",
        "autorestart=unexpected",
        "exitcodes=0,2,118",
        "startsecs=0",
        "stopwaitsecs=30",
        "killasgroup=true",
        "stdout_logfile=/var/log/g/x.log",
        "stdout_logfile_maxbytes=10MB",
    ):
        assert line in lines


def test_supervisord_listens_on_no_port():
    lines = supervised("supervisord.conf.j2")
    assert [line for line in lines if line.startswith("[")] == [
        "[unix_http_server]",
        "[rpcinterface:supervisor]",
        "[supervisord]",
        "[include]",
    ]
    assert "chmod=0700" in lines


def test_the_hooks_script_says_what_to_run_after_a_reset(tmp_path):
    script = tmp_path / "boot.sh"
    script.write_text("\n".join(supervised("boot.sh.j2", service_install_dir="/nonexistent")))
    ran = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "what was set up here is gone" in ran.stderr
    assert "ansible-playbook site.yml" in ran.stderr


GATEWAY = ROOT / "roles" / "gateway"
TOKENS = {"/s/gateway_token": "a" * 48, "/s/gateway_token.default": "b" * 48}


def gateway(template: str, **values: object) -> str:
    """Return a file of the gateway's, with two users; values: what differs from the role's defaults."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "comment": lambda text: f"# {text}",
        "bool": bool,
        "int": int,
        "hash": lambda text, kind: hashlib.new(kind, text.encode()).hexdigest(),
        "b64encode": lambda text: base64.b64encode(text.encode()).decode(),
        "regex_escape": re.escape,
    }
    environment.globals["lookup"] = lambda kind, file, **_: TOKENS[file]
    given = {
        **yaml.safe_load((GATEWAY / "defaults" / "main.yml").read_text()),
        "ansible_managed": "managed",
        "ansible_check_mode": False,
        "gateway_port": 3389,
        "gateway_config_dir": "/etc/g",
        "gateway_state_dir": "/var/g",
        "gateway_status_port": 8109,
        "gateway_health_port": 8100,
        "gateway_next_ports": 10,
        "gateway_web2": True,
        "gateway_public_url": "https://203.0.113.7:16114",
        "__gateway_zones": yaml.safe_load((GATEWAY / "vars" / "main.yml").read_text())["__gateway_zones"],
        "__gateway_demos": {"health": 8100, "api": 8101, "openai": 8102, "web": 8103, "web2": 8104, "ptuning": 8105},
        "__gateway_certificate": "/etc/g/c.pem",
        "__gateway_certificate_key": "/etc/g/k.pem",
        "__gateway_cookie": "glmbox_16114",
        "__gateway_cookie_secure": "",
        "__gateway_token_files": {"glmbox": "/s/gateway_token", "default": "/s/gateway_token.default"},
        "__gateway_inputs": "abc",
        "__gateway_log": "syslog:server=unix:/dev/log,nohostname,tag=glmbox_gateway",
        "__gateway_log_time": "",
    }
    return environment.from_string((GATEWAY / "templates" / template).read_text()).render(**{**given, **values})


def block(text: str, opening: str) -> list[str]:
    """Return the lines between a line that begins so and its closing brace."""
    lines = [line.strip() for line in text.splitlines()]
    start = next(number for number, line in enumerate(lines) if line.startswith(opening) and line.endswith("{"))
    return lines[start + 1 : lines.index("}", start)]


def mapped(text: str, name: str, value: str) -> str:
    """Return what a map of nginx gives for a value: whole strings first, whatever their case, then expressions."""
    found = re.search(r"map \S.* \$" + name + r" \{(.*?)\n *\}", text, re.DOTALL)
    lines = [line.strip().rstrip(";") for line in found.group(1).splitlines() if line.strip()]
    pairs = [re.fullmatch(r"""("[^"]*"|\S+) (.*)""", line).groups() for line in lines]
    table = [(key.strip('"'), outcome.strip("\"'")) for key, outcome in pairs]
    for key, outcome in table:
        if key.lower() == value.lower() and key != "default":
            return outcome
    for key, outcome in table:
        if key.startswith("~"):
            expression = (
                key[1:].replace("\\z", "\\Z").replace("(?<", "(?P<").replace("\\k<glmbox_origin>", "(?P=glmbox_origin)")
            )
            match = re.search(expression, value)
            if match:
                return match.group("glmbox_name") if outcome == "$glmbox_name" else outcome
    return dict(table).get("default", "")


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ("0:0:0:/", True),
        ("0:0:1:/", False),
        ("1:0:1:/v1/models", True),
        ("1:1:0:/v1/models", False),
        ("0:1:0:/config", False),
        ("0:0:0:/healthz", False),
        ("0:0:0:/healthz\n", True),
        ("0:0:0:/healthz/more", True),
        ("0:0:0:/x:1:", True),
    ],
)
def test_who_is_refused(state, refused):
    assert mapped(gateway("nginx.conf.j2"), "glmbox_refused", state) == str(int(refused))


@pytest.mark.parametrize(
    ("request_line", "program"),
    [
        ("POST:/", True),
        ("GET:/", False),
        ("GET:/v1/models", True),
        ("GET:/v1", True),
        ("GET:/v12", False),
        ("GET:/metrics", True),
        ("GET:/metrics\n", False),
        ("POST:/run/predict", False),
        ("GET:/web_demo2/", False),
    ],
)
def test_what_takes_the_bearer_alone(request_line, program):
    assert mapped(gateway("nginx.conf.j2"), "glmbox_program", request_line) == str(int(program))


@pytest.mark.parametrize(
    ("origin_and_host", "foreign"),
    [
        (" 203.0.113.7:1", False),
        ("http://203.0.113.7:1 203.0.113.7:1", False),
        ("https://203.0.113.7:1 203.0.113.7:1", False),
        ("http://203.0.113.7:2 203.0.113.7:1", True),
        ("null 203.0.113.7:1", True),
    ],
)
def test_a_page_from_elsewhere_is_foreign(origin_and_host, foreign):
    assert mapped(gateway("nginx.conf.j2"), "glmbox_foreign", origin_and_host) == str(int(foreign))


@pytest.mark.parametrize(("names", "user"), [("a/b/c", "a"), ("/b/", "b"), ("//c", "c"), ("//", "-")])
def test_the_log_names_whose_token_it_is(names, user):
    assert mapped(gateway("nginx.conf.j2"), "glmbox_user", names) == user


@pytest.mark.parametrize(
    ("brought", "counted"),
    [("-:", False), ("-:Bearer x", True), ("-:0000", True), ("alice:Basic eA==", False), ("-:Basic eA==", True)],
)
def test_only_tokens_that_nobody_has_are_slowed_down(brought, counted):
    assert bool(mapped(gateway("nginx.conf.j2"), "glmbox_wrong", brought)) is counted


def test_each_user_has_a_token_and_a_cookie_that_is_not_it():
    text = gateway("token.conf.j2")
    assert mapped(text, "glmbox_bearer", "Bearer " + "a" * 48) == "glmbox"
    assert mapped(text, "glmbox_bearer", "Bearer " + "b" * 48) == "default"
    for wrong in ("Bearer " + "A" * 48, "Bearer " + "a" * 49, "Bearer ", "", "default"):
        assert mapped(text, "glmbox_bearer", wrong) == ""
    own, others = (base64.b64encode(f"default:{token}".encode()).decode() for token in ("b" * 48, "a" * 48))
    assert mapped(text, "glmbox_basic", f"Basic {own}") == "default"
    assert mapped(text, "glmbox_basic", f"Basic {others}") == ""
    cookie = mapped(text, "glmbox_set_cookie", "default")
    assert re.fullmatch(r"glmbox_16114=[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Strict", cookie)
    assert mapped(text, "glmbox_cookie", cookie.split(";")[0].split("=")[1]) == "default"
    assert mapped(text, "glmbox_cookie", "b" * 48) == ""


def test_the_log_tells_no_query_and_no_header():
    form = next(line for line in gateway("nginx.conf.j2").splitlines() if "log_format" in line)
    assert "$uri" in form
    assert not re.search(r"\$(request\b|request_uri|args|query_string|http_|cookie_|arg_)", form)


def test_limits_are_what_was_asked_and_leave_room_for_all_of_them():
    text = gateway("nginx.conf.j2", gateway_requests_per_second=7, gateway_connections=300)
    assert "rate=7r/s" in text
    assert "limit_conn glmbox_connections 300;" in text
    # Each has a connection to its demo beside the client's, and a worker may get all of them.
    assert int(re.search(r"worker_connections (\d+);", text).group(1)) > 2 * 300
    slowed = block(text, "location @refused")
    assert "limit_req zone=glmbox_wrong burst=5;" in slowed
    # A limit of its own replaces the server's in a location.
    assert any(line.startswith("limit_req zone=glmbox_rate") for line in slowed)


def test_no_location_has_a_header_of_its_own():
    """With one, nginx would leave out all headers that stand outside of it."""
    text = gateway("nginx.conf.j2", gateway_tls="files")
    assert text.count("add_header") >= 7
    assert "add_header" not in text[text.index("    server {") :]


def test_without_systemd_the_log_is_the_services_own_with_the_time():
    text = gateway("nginx.conf.j2", __gateway_log="/dev/stdout", __gateway_log_time="$time_iso8601 ")
    assert "access_log /dev/stdout glmbox;" in text
    assert "log_format glmbox '$time_iso8601 $remote_addr $glmbox_user " in text


def test_without_tls_there_is_none():
    text = gateway("nginx.conf.j2")
    assert "listen 0.0.0.0:3389;" in text
    assert "ssl" not in text
    assert "Strict-Transport-Security" not in text


@pytest.mark.parametrize("tls", ["self_signed", "files"])
def test_tls_is_new_and_redirects_plain_http(tls):
    text = gateway("nginx.conf.j2", gateway_tls=tls)
    for line in (
        "listen 0.0.0.0:3389 ssl;",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_certificate_key /etc/g/k.pem;",
        "error_page 497 =301 https://203.0.113.7:16114$request_uri;",
    ):
        assert line in text
    assert "Strict-Transport-Security" in text


def test_what_is_not_wanted_is_not_reached():
    closed, opened = gateway("nginx.conf.j2"), gateway("nginx.conf.j2", gateway_docs=True)
    assert [line.split("'")[0] for line in block(closed, "location ~ ^/(docs|redoc")] == ["return 404 "]
    assert block(opened, "location ~ ^/(docs|redoc") == ["proxy_pass http://glmbox_api;"]
    assert "/web_demo2/" in closed
    assert "/web_demo2/" not in gateway("nginx.conf.j2", gateway_web2=False)


def test_the_tuned_models_page_is_asked_without_its_path():
    page = block(gateway("nginx.conf.j2"), "location /ptuning/")
    assert page[0] == "proxy_pass http://glmbox_ptuning/;"
    assert "error_page 502 = @no_checkpoint;" in page
    assert "error_page 504 = @no_demo;" in page
    # One of a location's own hides all of the server's.
    assert "error_page 413 @too_large;" in page
    assert "error_page 429 @too_many;" in page


def test_nginx_tells_by_an_address_what_it_has_read():
    assert "location = /abc {" in gateway("status.conf.j2")
    assert "listen 127.0.0.1:8109;" in gateway("status.conf.j2")


def test_a_second_copy_stands_in_for_demos_that_are_replaced():
    text = gateway("nginx.conf.j2")
    assert block(text, "upstream glmbox_api") == ["server 127.0.0.1:8101 max_fails=0;", "server 127.0.0.1:8111 backup;"]
