"""Execution of a command in the process of a test."""

import importlib


def run_command(name, *arguments):
    """Executes a command with command-line arguments; gives its exit code."""
    module = importlib.import_module(f'vistok.launch.{name}')
    execute = importlib.import_module('vistok.launch.shared.command').execute
    return execute(module.main, module.FLAGS, [str(argument) for argument in arguments])
