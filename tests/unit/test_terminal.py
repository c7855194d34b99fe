"""Messages where there is no terminal."""

from headstart.terminal import Terminal


def test_a_file_gets_each_message_on_a_line_of_its_own(capsys):
    message = "Epoch 1/2 " + "and more " * 30 + "[end]"
    Terminal(enabled=True).say(message)
    assert capsys.readouterr().err == f"{message}\n"
