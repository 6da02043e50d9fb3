"""Pushes to a real Pushgateway, seen by a real Prometheus."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from wine_drift.errors import PushFailed
from wine_drift.publishing import Gateway, push, render

UP = "wine_drift_up"


def gauge(value: float = 1, name: str = UP) -> Metric:
    return GaugeMetricFamily(name, "1 if it runs.", value=value)


def runs(count: float, name: str = "wine_drift_runs") -> Metric:
    family = CounterMetricFamily(name, "Runs so far.", labels=["outcome"])
    family.add_metric(["ok"], count)
    return family


def to(url: str, pipeline: str = "red", **settings: Any) -> Gateway:
    return Gateway(url, "wine_drift", pipeline, **settings)


def no_sleep(seconds: float) -> None:
    pass


def test_prometheus_answers_with_the_pushed_values(pushgateway: Any, prometheus: Any) -> None:
    """What is pushed is what a query gets, under job and pipeline and no label of the gateway."""
    push([gauge(0.25), runs(3)], to(pushgateway.url))
    labels = {"job": "wine_drift", "pipeline": "red"}
    assert prometheus.wait_for(UP) == [{"metric": {"__name__": UP, **labels}, "value": 0.25}]
    (row,) = prometheus.query("wine_drift_runs_total")
    assert row["metric"] == {"__name__": "wine_drift_runs_total", **labels, "outcome": "ok"}
    assert row["value"] == 3

    push([runs(4)], to(pushgateway.url))
    prometheus.wait_for("wine_drift_runs_total", lambda rows: rows[0]["value"] == 4)
    assert prometheus.query(UP) == []


def test_second_push_removes_what_it_lacks(pushgateway: Any) -> None:
    """A family that is not in the next push vanishes, in this pipeline's group only."""
    push([gauge(), runs(3)], to(pushgateway.url))
    push([gauge()], to(pushgateway.url, "white"))
    assert f'{UP}{{instance="",job="wine_drift",pipeline="red"}} 1' in pushgateway.metrics()

    push([runs(4)], to(pushgateway.url))
    text = pushgateway.metrics()
    assert f'{UP}{{instance="",job="wine_drift",pipeline="red"}}' not in text
    assert f'{UP}{{instance="",job="wine_drift",pipeline="white"}} 1' in text


@pytest.mark.parametrize("pipeline", ["red/white", "red wine", "Gewürz+traminer", "50%&?#=@"])
def test_pipeline_names_arrive_whole(pushgateway: Any, pipeline: str) -> None:
    """Escaped names are the same names on the other side, in one group with two labels."""
    push([gauge()], to(pushgateway.url, pipeline))
    assert pushgateway.groups() == [{"job": "wine_drift", "pipeline": pipeline}]


def test_gateway_refuses_a_change_of_type(pushgateway: Any) -> None:
    """The same name with another type in another group is refused in the gateway's own words."""
    push([gauge(name="wine_drift_runs_total")], to(pushgateway.url))
    with pytest.raises(PushFailed) as caught:
        push([runs(3)], to(pushgateway.url, "white"), sleep=no_sleep)
    assert caught.value.reason == "rejected"
    assert "after 1 attempt: HTTP 400 Bad Request: " in str(caught.value)
    assert "collected metric" in str(caught.value)
    assert "wine_drift_runs_total" in str(caught.value)
    assert "is not a" in str(caught.value)


def test_push_works_again_after_the_gateway_was_down(pushgateway: Any) -> None:
    """A stopped gateway is a connection error; once it is back the next push is complete."""
    push([gauge(0)], to(pushgateway.url))
    pushgateway.stop()
    with pytest.raises(PushFailed) as caught:
        push([gauge(1)], to(pushgateway.url), sleep=no_sleep)
    assert caught.value.reason == "connection"
    assert pushgateway.url in str(caught.value)

    pushgateway.start()
    assert 'pipeline="red"} 0' in pushgateway.metrics()
    push([gauge(1)], to(pushgateway.url))
    assert f'{UP}{{instance="",job="wine_drift",pipeline="red"}} 1' in pushgateway.metrics()


def test_a_gateway_that_comes_back_in_time_is_not_missed(pushgateway: Any) -> None:
    """A restart of the gateway between two attempts costs a pause and nothing else."""
    pushgateway.stop()
    push([gauge()], to(pushgateway.url), sleep=lambda seconds: pushgateway.start())
    assert len(pushgateway.groups()) == 1


def test_promtool_finds_nothing_to_say(promtool: str) -> None:
    """The rendered text passes Prometheus' own linter, which does complain about a bad name."""

    def check(*families: Metric) -> int:
        text = render(families)
        return subprocess.run([promtool, "check", "metrics"], input=text, text=True).returncode

    assert check(gauge(), runs(3)) == 0
    assert check(gauge(name="wineDrift_up")) != 0


def test_push_over_tls_with_a_password(
    start_pushgateway: Callable[..., Any], openssl: str, tmp_path: Path
) -> None:
    """CA file and password together get through; without either the error says which is wrong."""
    cert, key, web, password = (
        tmp_path / n for n in ("cert.pem", "key.pem", "web.yml", "password")
    )
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=test"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    # bcrypt of "correct horse", at the lowest cost so that the test is fast
    bcrypt = "$2b$04$zOCuUVQqbhMozgFCCdgEF.hhH8MbXMR637MV12GL39P09YW8JR7RW"
    web.write_text(
        f"tls_server_config: {{cert_file: {cert.name}, key_file: {key.name}}}\n"
        f"basic_auth_users: {{cellar: {bcrypt}}}\n"
    )
    password.write_text("correct horse\n")
    url = start_pushgateway(f"--web.config.file={web}", scheme="https").url

    push([gauge()], to(url, username="cellar", password_file=password, ca_file=cert))

    with pytest.raises(PushFailed, match="certificate verify failed") as caught:
        push([gauge()], to(url, username="cellar", password_file=password), sleep=no_sleep)
    assert "after 1 attempt" in str(caught.value)
    assert "CA file" in caught.value.remedy
    password.write_text("battery staple")
    with pytest.raises(PushFailed, match="HTTP 401") as caught:
        push([gauge()], to(url, username="cellar", password_file=password, ca_file=cert))
    assert "staple" not in str(caught.value)


def test_the_doctor_asks_what_is_there(
    pushgateway: Any, cli: Callable[..., Any], home: Path
) -> None:
    """It understands a real Pushgateway: nothing yet, what is known here, another home's."""
    words = ("--home", home, "--pushgateway", pushgateway.url)
    assert "nothing of pipeline red_wine yet" in cli("doctor", *words).stdout
    cli("push", *words)
    assert "it has what this home knows" in cli("doctor", *words).stdout
    run = ("run-batch", "--home", "other", "--source", "simulated", "--rounds", "5")
    cli(*run, "--pushgateway", pushgateway.url)
    assert "another home has the same `pipeline`" in cli("doctor", *words, code=7).stdout
