"""Settings: three sources, one frozen tree, every problem at once, no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream import Misconfigured
from millstream.runtime.settings import Secret, load_settings

REPO = Path(__file__).parents[3]


def _problems(path: Path | None = None, env: dict[str, str] | None = None, **overrides: object) -> list[str]:
    with pytest.raises(Misconfigured) as raised:
        load_settings(path, env, {key.replace("__", "."): value for key, value in overrides.items()})
    return list(raised.value.problems)


def test_defaults_need_no_file() -> None:
    settings = load_settings()

    assert (settings.app, settings.data, settings.http.port) == (
        "millstream_services.payments_path:all",
        Path("var"),
        8080,
    )
    assert settings.consumption.lease == 15
    assert settings.auth.development


def test_the_file_of_the_repository_states_the_defaults() -> None:
    assert load_settings(REPO / "millstream.toml") == load_settings()


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    file = tmp_path / "millstream.toml"
    file.write_text('data = "one"\n[http]\nport = 1\nhost = "::1"\ngrace = "1m"\n')
    env = {"MILLSTREAM_HTTP__PORT": "2", "MILLSTREAM_HTTP__HOST": "localhost", "PATH": "/bin"}

    settings = load_settings(file, env, {"http.port": 3, "data": tmp_path, "http.grace": None})

    assert (settings.http.port, settings.http.host, settings.http.grace) == (3, "localhost", 60)
    assert settings.data == tmp_path


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "millstream.toml"
    file.write_text(
        'port = 1\n[http]\nprot = 2\ngrace = "1x"\n[transport]\npartitions = 0\n[consumption]\nlease = []\n'
    )

    problems = _problems(file, {"MILLSTREAM_STORE__URL": "file:/nowhere", "MILLSTREAM_HTTP": "x"}, app="no-colon")

    assert problems == [
        f"{file}: port: no such setting; did you mean http.port?",
        f"{file}: http.prot: no such setting; did you mean http.port?",
        "MILLSTREAM_HTTP: this is a table; set a key inside it",
        f"{file}: http.grace = \"1x\": '1x' is no duration; write for instance '250ms', '1s', '15m', '1h30m' or '7d'",
        "MILLSTREAM_STORE__URL = ***: file:/nowhere cannot be read (No such file or directory)",
        f"{file}: consumption.lease = []: Expected `float`, got `array`",
        'app = "no-colon": write it as "package.module:name"',
        "transport.partitions = 0: at least 1",
    ]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("http__port", 70_000, "a port is 0 to 65535"),
        ("http__grace", "2s", "at least 3 s above http.drain_delay"),
        ("http__drain_delay", -1, "not below 0"),
        ("http__body_limit_bytes", 0, "at least 1"),
        ("transport__retention", -1, "not below 0"),
        ("consumption__batch_size", 0, "at least 1"),
        ("consumption__lease", "500ms", "at least 1 s"),
        ("consumption__batch_time", "6s", "at most a third of consumption.lease"),
        ("consumption__inbox_retention", 0, "above 0"),
        ("consumption__max_parked", 0, "at least 1"),
        ("telemetry__sample", 1.5, "a share from 0 to 1"),
        ("telemetry__log_level", "loud", "Invalid enum value 'loud'"),
        ("store__url", 5, "Expected `str`, got `int`"),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: object, says: str) -> None:
    assert any(says in problem for problem in _problems(None, None, **{key: value}))


def test_two_sources_of_keys_contradict_each_other() -> None:
    assert _problems(auth__jwks="https://a/jwks", auth__public_key="pem") == [
        "auth: give either jwks or public_key, not both"
    ]


def test_a_file_that_is_not_there_and_one_that_is_no_toml_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("= 1")

    assert "cannot be read (No such file or directory)" in _problems(tmp_path / "none.toml")[0]
    assert "no TOML" in _problems(broken)[0]


def test_lists_are_written_with_commas_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "millstream.toml"
    file.write_text('only = ["orders"]\n')

    assert load_settings(file).only == ("orders",)
    assert load_settings(file, {"MILLSTREAM_ONLY": "payments, gateway"}).only == ("payments", "gateway")


def test_durations_are_texts_or_numbers() -> None:
    settings = load_settings(None, {"MILLSTREAM_CONSUMPTION__LEASE": "20", "MILLSTREAM_HTTP__GRACE": "1m"})

    assert (settings.consumption.lease, settings.http.grace) == (20, 60)
    assert load_settings(None, {}, {"transport.retention": 5}).transport.retention == 5


def test_services_read_free_tables_under_either_spelling_of_their_name(tmp_path: Path) -> None:
    file = tmp_path / "millstream.toml"
    file.write_text('[services.order-history]\nurl = "x"\nnested = { a = 1 }\nlist = ["file:none"]\n')
    (tmp_path / "key").write_text("k3y\n")
    file.write_text(f'[services.order-history]\nkey = "file:{tmp_path}/key"\nnested = {{ a = 1 }}\n')

    settings = load_settings(file, {"MILLSTREAM_SERVICES__ORDER_HISTORY__WORKERS": "4"})

    assert settings.service("order-history") == {"key": "k3y", "nested": {"a": 1}, "workers": "4"}
    assert settings.service("unknown") == {}


def test_an_intake_is_found_under_either_spelling_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "millstream.toml"
    file.write_text('[intakes]\nlegacy-orders = "rabbitmq://here?queue=a"\n')

    assert load_settings(file).intake("legacy-orders") == "rabbitmq://here?queue=a"
    settings = load_settings(file, {"MILLSTREAM_INTAKES__LEGACY_ORDERS": "none"})
    assert settings.intake("legacy-orders") == "none"
    assert settings.intake("unknown") is None


def test_no_secret_is_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("nats://user:s3cret@host\n")
    env = {
        "MILLSTREAM_TRANSPORT__URL": f"file:{tmp_path}/url",
        "MILLSTREAM_STORE__URL": "postgresql://user:s3cret@host/db",
        "MILLSTREAM_SERVICES__PAYMENTS__STRIPE_API_KEY": "s3cret",
        "MILLSTREAM_SERVICES__PAYMENTS__SMTP__PASSWORD": "s3cret",
        "MILLSTREAM_SERVICES__PAYMENTS__NOTE": f"file:{tmp_path}/url",
        "MILLSTREAM_SERVICES__PAYMENTS__PROVIDER": "simulated",
    }
    settings = load_settings(None, env)
    shown = settings.redacted()

    assert settings.transport.url == "nats://user:s3cret@host"
    assert isinstance(settings.transport.url, Secret)
    assert shown["transport"]["url"] == "***"
    assert shown["store"]["url"] == "postgresql://user:***@host/db"
    assert shown["services"]["payments"]["provider"] == "simulated"
    for text in (str(shown), repr(settings), repr(settings.store), repr(settings.transport.url)):
        assert "s3cret" not in text


def test_an_unreadable_secret_is_not_shown_in_its_problem() -> None:
    problems = _problems(None, {"MILLSTREAM_AUTH__JWKS": "file:/nowhere/url"})

    assert problems == ["MILLSTREAM_AUTH__JWKS = ***: file:/nowhere/url cannot be read (No such file or directory)"]


def test_variables_that_are_no_settings_are_left_alone() -> None:
    env = {"MILLSTREAM_CONFIG": "x", "MILLSTREAM_URL": "y", "MILLSTREAM_TOKEN": "z", "MILLSTREAM_FAILPOINTS": "w"}

    assert load_settings(None, env) == load_settings()


def test_a_setting_nobody_could_mean_lists_the_known_ones() -> None:
    assert "there are app, data, only, start, http.host" in _problems(None, {"MILLSTREAM_QQQQ": "1"})[0]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://s3cret@host:4222?sync=always", "nats://***@host:4222?sync=always"),
        ("nats://ann:s3cret@host", "nats://ann:***@host"),
        ("postgresql://ann@host", "postgresql://ann@host"),
        ("nats://host", "nats://host"),
    ],
)
def test_what_an_engine_takes_as_a_secret_is_not_shown(url: str, shown: str) -> None:
    assert load_settings(overrides={"transport.url": url}).redacted()["transport"]["url"] == shown
