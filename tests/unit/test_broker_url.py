"""Broker URLs: what is understood, and that no message shows a password."""

from pathlib import Path

import pytest

from reheatd.broker_url import broker_address, parse_broker_url
from reheatd.config import load_settings
from reheatd.errors import BadInputError, ConfigError

SECRET = "pa/ss#wo?rd@%&:+ é"
QUOTED = "pa%2Fss%23wo%3Frd%40%25%26%3A%2B%20%C3%A9"


@pytest.mark.parametrize(
    ("written", "client", "celery", "address"),
    [
        ("redis://host", "redis://host:6379/0", "redis://host:6379/0", "redis://host:6379/0"),
        ("redis://host:1/", "redis://host:1/0", "redis://host:1/0", "redis://host:1/0"),
        ("valkey://:x@host/3", "redis://:x@host:6379/3", "redis://:x@host:6379/3", "redis://host:6379/3"),
        ("redis://me:x@[::1]:1/0", "redis://me:x@[::1]:1/0", "redis://me:x@[::1]:1/0", "redis://[::1]:1/0"),
        (f"redis://:{SECRET}@h:1/2", f"redis://:{QUOTED}@h:1/2", f"redis://:{QUOTED}@h:1/2", "redis://h:1/2"),
        (f"redis://:{QUOTED}@h:1/2", f"redis://:{QUOTED}@h:1/2", f"redis://:{QUOTED}@h:1/2", "redis://h:1/2"),
        (
            f"unix://:{SECRET}@/run/my valkey.sock?db=2",
            f"unix://:{QUOTED}@/run/my%20valkey.sock?db=2",
            f"redis+socket://:{QUOTED}@/run/my%20valkey.sock?virtual_host=2",
            "unix:///run/my valkey.sock",
        ),
        (
            "redis+socket:///run/s?virtual_host=1",
            "unix:///run/s?db=1",
            "redis+socket:///run/s?virtual_host=1",
            "unix:///run/s",
        ),
    ],
)
def test_redis_py_and_celery_get_what_they_understand(written: str, client: str, celery: str, address: str) -> None:
    url = parse_broker_url(written)
    assert (str(url), *url.for_celery(), url.address) == (client, celery, {}, address)
    assert parse_broker_url(str(url)) == parse_broker_url(celery) == url
    assert SECRET not in repr(url) and QUOTED not in repr(url)


def test_tls_is_verified_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.touch()
    assert parse_broker_url("valkeys://h").for_celery() == ("rediss://h:6379/0", {"ssl_cert_reqs": "required"})
    written = f"rediss://h?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=False&ssl_ca_certs={certificates}"
    options = {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": str(certificates)}
    assert parse_broker_url(written).for_celery() == ("rediss://h:6379/0", options)
    assert parse_broker_url(str(parse_broker_url(written))) == parse_broker_url(written)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "is empty.*REHEATD_BROKER__URL"),
        (" ", "is empty"),
        ("host:6379", "is not the URL of a Redis"),
        ("amqp://me:s3cret@host//", "is not the URL of a Redis"),
        ("sentinel://:s3cret@host:26379", "Sentinel.*name the primary"),
        ("redis://", "names no host"),
        ("redis://:s3cret@:6379", "names no host"),
        ("redis://me:s3cret", "no usable host and port"),
        ("redis://:s3cret/more", "names no host|no usable host"),
        ("redis://s3cret@host", "no password"),
        ("redis://:s3cret@host:port", "no usable host and port"),
        ("redis://:s3cret@host:70000", "port"),
        ("redis://:s3cret@a:1;redis://:s3cret@b:2", "more than one broker"),
        ("redis://:s3cret@a,b", "no usable host and port"),
        ("redis://:s3cret@host/s3cret", "database that is not a number"),
        ("redis://:s3cret@host?db=-1", "database that is not a number"),
        ("redis://host?password=s3cret", "option"),
        ("redis://:s3cret@host?socket_timeout=soon", "option"),
        ("redis://:s3cret@host?ssl_cert_reqs=none", "option.*use db"),
        ("redis://:s3cret@host?s3cret", "name=value"),
        ("redis://:s3cret@host?db=1&db=2", "twice"),
        ("rediss://:s3cret@host?ssl_cert_reqs=s3cret", "ssl_cert_reqs; use none, optional, required"),
        ("rediss://:s3cret@host?ssl_check_hostname=s3cret", "ssl_check_hostname; use true or false"),
        ("rediss://:s3cret@host?ssl_ca_certs=/no/such.pem", "/no/such.pem"),
        ("unix://:s3cret@", "names no socket"),
        ("unix://run/valkey.sock", "three slashes"),
        ("unix:///run/valkey.sock?timeout=s3cret", "option"),
    ],
)
def test_what_cannot_be_used_is_refused_at_start_in_one_line_without_the_password(
    written: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInputError, match=rf"^broker\.url .*({says})") as direct:
        broker_address(written)
    monkeypatch.setenv("REHEATD_BROKER__URL", written)
    with pytest.raises(ConfigError, match=rf"^broker\.url .*({says})") as configured:
        load_settings()
    for error in (direct.value, configured.value):
        assert error.param == "broker.url" and "s3cret" not in error.message and "\n" not in error.message


@pytest.mark.parametrize(
    "line", ['broker = "redis://:s3cret@host"', "[broker]\nurl = ['redis://:s3cret@h']", "[broker]\npassword_file = 3"]
)
def test_a_value_of_the_wrong_kind_is_not_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / "reheatd.toml"
    file.write_text(line)
    with pytest.raises(ConfigError, match="broker") as caught:
        load_settings(file)
    assert "s3cret" not in caught.value.message


def test_the_password_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3/cret\n")
    file = tmp_path / "reheatd.toml"
    file.write_text(f"[broker]\nurl = 'redis://host'\npassword_file = '{tmp_path / 'password'}'\n")
    broker = load_settings(file).broker
    assert broker.full_url == "redis://:s3%2Fcret@host:6379/0"
    shown = repr(load_settings(file))
    assert "s3/cret" not in shown and "s3%2Fcret" not in shown
    (tmp_path / "password").unlink()
    with pytest.raises(ConfigError, match=r"broker\.password_file = .*No such file"):
        _ = broker.full_url
    for url in ("", "url = 'redis://:x@host'\n"):
        file.write_text(f"[broker]\n{url}password_file = 'f'\n")
        with pytest.raises(ConfigError, match="password_file needs a url without a password"):
            load_settings(file)
