"""The Dag file of the worker's tests."""

DAG_FILE = """
import os
import time
from pathlib import Path

from airflow.sdk import DAG, Variable, task

with DAG("lab") as dag:

    @task
    def hello(marks):
        with open(marks, "a") as file:
            file.write("ran\\n")
        print("hello from the edge")
        return 42

    @task
    def wait_for(marks, until):
        with open(marks, "a") as file:
            file.write("ran\\n")
        count = 0
        while not Path(until).exists():
            count += 1
            print(f"tick {count}")
            time.sleep(0.1)
        print("seen")

    @task
    def chatty():
        for number in range(3000):
            print(f"line {number} " + "x" * 400)

    @task
    def asks():
        print("the variable is " + Variable.get("place"))

    @task
    def shot():
        os.kill(os.getpid(), int(os.environ.get("LAB_SIGNAL", "9")))

    @task
    def says_one_word(marks, until):
        with open(marks, "a") as file:
            file.write("ran\\n")
        while not Path(until).exists():
            time.sleep(0.1)
        print("a word")
        time.sleep(600)

    @task
    def large(ti):
        try:
            ti.xcom_push("large", "x" * 3_000_000)
        except Exception as error:
            print(f"could not push: {error}")
        ti.xcom_push("small", "x")
        print("goes on")

    @task
    def environment():
        print("ENV " + repr(sorted(os.environ)))
        print("ARGV " + Path("/proc/self/cmdline").read_text())

    hello(os.environ.get("LAB_MARKS", "/dev/null"))
    wait_for(os.environ.get("LAB_MARKS", "/dev/null"), os.environ.get("LAB_UNTIL", "/"))
    chatty()
    asks()
    shot()
    says_one_word(os.environ.get("LAB_MARKS", "/dev/null"), os.environ.get("LAB_UNTIL", "/"))
    large()
    environment()


def called(**kwargs):
    print("the callback ran")


def called_to_close_its_sockets(**kwargs):
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    time.sleep(0.5)
    os._exit(0)


def called_for_long(**kwargs):
    print("the callback waits")
    while not Path(os.environ["LAB_UNTIL"]).exists():
        time.sleep(0.1)
"""
