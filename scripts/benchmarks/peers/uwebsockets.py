"""uWebSockets (C++) through socketify; its own topics do the fan-out."""

from typing import Any

from socketify import App, AppListenOptions, CompressOptions, OpCode

from .announce import Role, listening, role


def behaviour(app: App, asked: Role) -> dict[str, Any]:
    def subscribe(connection: Any) -> None:
        connection.subscribe("bench")

    def echo(connection: Any, message: str | bytes, opcode: OpCode) -> None:
        connection.send(message, opcode)

    def to_all(_connection: Any, message: str | bytes, opcode: OpCode) -> None:
        app.publish("bench", message, opcode)

    return {
        "compression": CompressOptions.DISABLED,
        "idle_timeout": 0,
        **({"message": echo} if asked == "echo" else {"open": subscribe, "message": to_all}),
    }


def listened(config: Any) -> None:
    listening(config.port)


def main() -> None:
    app = App()
    app.ws("/*", behaviour(app, role()))
    app.listen(AppListenOptions(port=0, host="127.0.0.1"), listened)
    app.run()


if __name__ == "__main__":
    main()
