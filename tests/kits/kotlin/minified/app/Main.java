package app;

import org.pytorch.executorch.Module;

public class Main {
    public static void main(String[] arguments) {
        System.out.println(new Module().isAlive());
    }
}
