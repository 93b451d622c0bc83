"""A container as vast.ai rents it restarts while it is deployed. molecule has what happens to one otherwise."""

from __future__ import annotations

import threading

import box
import pytest
from rented import Rented
from support import Outcome, site

pytestmark = pytest.mark.long


@pytest.fixture
def rented():
    one = Rented("vast", "restarted")
    one.up()
    yield one
    one.down()


def test_a_restart_in_mid_run_is_told_and_the_next_run_ends_well(rented, tmp_path):
    rented.enrol()
    ended: list[Outcome] = []
    run = threading.Thread(target=lambda: ended.append(site(rented.folder, cache_dir=str(tmp_path / "none"))))
    run.start()
    rented.inside("until [ -s /var/lib/glmbox/jobs/build-openssl/log ]; do sleep 0.2; done")
    box.podman("restart", "--time", "2", rented.name)
    run.join(300)
    assert ended[0].exit_code != 0
    # By the next command over SSH, or by the first one after the restart.
    told = ("box1 does not answer any more", "The job build-openssl ended as")
    assert any(words in " ".join(ended[0].output.split()) for words in told)
    print(ended[0].failure)
    again = site(rented.folder)
    assert again.failure == ""
    assert site(rented.folder).changed == []
