"""Certificates of a cluster: make a development authority, issue them, look at them, check them.

    torchveil certs init DIRECTORY --cluster NAME
    torchveil certs issue DIRECTORY party/alice [--days 365] [--address HOST] [--renew] [--request FILE]
    torchveil certs request DIRECTORY party/alice [--renew]
    torchveil certs show PATH ...
    torchveil certs check PATH ... [--warn-days 30]

Exit status: 0, or 1 if ``check`` found a problem, or 2 if something could not be done. Warnings go to stderr and
change no status.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from torchveil.cli.usage import UsageError
from torchveil.errors import TorchveilError
from torchveil.network.certificates import Finding, create_authority, inspect, issue
from torchveil.network.inspection import WARN_DAYS
from torchveil.network.names import Role
from torchveil.network.requests import KEY, REQUEST, make_request, read_request


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    actions = parser.add_subparsers(required=True, metavar="action")

    init = actions.add_parser("init", help="make a development authority: ca.pem and ca.key")
    init.add_argument("directory", type=Path, help="where the files are written; made if missing")
    init.add_argument("--cluster", required=True, help="name of the cluster; a certificate fits no other")
    init.add_argument("--days", type=int, default=3650, help="how long it is valid")
    init.set_defaults(action=_init)

    made = actions.add_parser("issue", help="make the certificate and the keys of a role")
    made.add_argument("directory", type=Path, help="where ca.pem and ca.key are; the files are written there")
    made.add_argument("role", help="as party/alice, provider/james, owner/hospital-a, controller/carol")
    made.add_argument("--days", type=int, default=365, help="how long it is valid")
    made.add_argument("--address", action="append", default=[], help="a host name or IP address to write into it")
    made.add_argument("--renew", action="store_true", help="a new certificate for the keys that are there")
    made.add_argument("--request", type=Path, metavar="FILE", help="what the role wrote with `certs request`")
    made.set_defaults(action=_issue)

    asked = actions.add_parser(
        "request", help="make the keys of a role where they stay, and a request to the authority"
    )
    asked.add_argument("directory", type=Path, help="where the files are written")
    asked.add_argument("role", help="as for issue")
    asked.add_argument("--renew", action="store_true", help="a new request for the keys that are there")
    asked.set_defaults(action=_request)

    show = actions.add_parser("show", help="list certificates and what is wrong with them")
    check = actions.add_parser("check", help="as show, but silent unless something is wrong or soon will be")
    for looking, action in ((show, _show), (check, _check)):
        looking.add_argument(
            "paths", type=Path, nargs="+", metavar="PATH", help="a certificate, or a directory of them"
        )
        looking.add_argument("--authority", type=Path, help="the cluster's ca.pem, if it lies somewhere else")
        looking.add_argument("--warn-days", type=int, default=WARN_DAYS, help="warn this long before one expires")
        looking.set_defaults(action=action)
    show.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Do it; the exit status."""
    try:
        status: int = options.action(options)
    except OSError as error:
        if isinstance(error, TorchveilError):
            raise
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    return status


def _init(options: argparse.Namespace) -> int:
    create_authority(options.directory, options.cluster, days=options.days)
    print(f"{options.directory / 'ca.pem'}: the authority of cluster {options.cluster}; give it to every role")
    print(f"{options.directory / 'ca.key'}: its private key; whoever has it can be any role")
    return 0


def _issue(options: argparse.Namespace) -> int:
    role = Role.parse(options.role)
    paths = issue(
        options.directory,
        role,
        days=options.days,
        addresses=options.address,
        renew=options.renew,
        request=options.request,
    )
    (found,) = inspect([paths.certificate])
    print(f"{paths.certificate}: the certificate of {role}, valid until {found.not_after:%Y-%m-%d}")
    if options.request:
        print(f"for keys with SHA-256 {read_request(options.request, role).fingerprint()}: ask {role} whether they are")
    else:
        print(f"{paths.key}: its private keys; move them to its machine and keep no copy")
    return 0


def _request(options: argparse.Namespace) -> int:
    role = Role.parse(options.role)
    keys = make_request(options.directory, role, renew=options.renew)
    path = options.directory / role.stem
    print(f"{path}{KEY}: the private keys of {role}; they stay here")
    print(f"{path}{REQUEST}: send it to the authority, for keys with SHA-256 {keys.fingerprint()}")
    return 0


def _inspect(options: argparse.Namespace) -> list[Finding]:
    return inspect(options.paths, authority=options.authority, warn_days=options.warn_days)


def _show(options: argparse.Namespace) -> int:
    found = _inspect(options)
    if options.json:
        rows = [asdict(finding) | {"role": finding.role and str(finding.role)} for finding in found]
        print(json.dumps(rows, default=str, indent=2))
        return 0
    for finding in found:
        print(_line(finding))
        print("".join(f"    {text}\n" for text in (*finding.problems, *finding.warnings)), end="")
    return 0


def _line(finding: Finding) -> str:
    if finding.not_after is None:
        return str(finding.file)
    name = finding.role or "the authority"
    key = "with key" if finding.has_key else "without key"
    until = f"valid until {finding.not_after:%Y-%m-%d} ({finding.days_left} days)"
    return f"{finding.file}: {name} of {finding.cluster}, {until}, {key}, SHA-256 {finding.fingerprint}"


def _check(options: argparse.Namespace) -> int:
    found = _inspect(options)
    for finding in found:
        for text in finding.problems:
            print(f"torchveil: {finding.file}: {text}", file=sys.stderr)
        for text in finding.warnings:
            print(f"torchveil: warning: {finding.file}: {text}", file=sys.stderr)
    if not found:
        print(f"torchveil: no certificates in {', '.join(map(str, options.paths))}", file=sys.stderr)
    return 1 if not found or any(finding.problems for finding in found) else 0
