"""Mistakes in user code, each of which both type checkers have to find."""

from servable.client import AsyncClient, Client, Tls, make_ndarray


def mistakes(client: Client) -> None:
    client.predict("m")  # the inputs are missing
    client.predict("m", [1.0], None, "s")  # more than the inputs by position
    client.predict("m", [1.0], version="2")  # a version is a number
    client.predict(7, [1.0])  # a model is a name
    client.predict("m", [1.0])["y"] = 3  # an output is an array
    print(client.predict("m", [1.0]).versoin)  # a slip of the pen
    client.multi_inference("m", {}, ["s"])  # tasks are a mapping
    client.status("m", label="stable")  # a status has no label
    Client(8500)  # an address is text
    Client("a", tls=Tls(authority="ca.pem"))  # there is no such file
    make_ndarray([1.0])  # only messages are decoded


def forgotten(client: AsyncClient) -> float:
    return client.predict("m", [1.0])["y"][0]  # it is not awaited
