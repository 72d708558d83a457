import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.RegionMetrics;
import org.apache.hadoop.hbase.ServerName;
import org.apache.hadoop.hbase.TableExistsException;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptor;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.RegionLocator;
import org.apache.hadoop.hbase.client.SnapshotDescription;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;
import org.apache.hadoop.hbase.io.encoding.DataBlockEncoding;
import org.apache.hadoop.hbase.regionserver.BloomType;
import org.apache.hadoop.hbase.tool.BulkLoadHFiles;
import org.apache.hadoop.hbase.util.Bytes;
import org.apache.hadoop.hbase.util.CommonFSUtils;

/**
 * What HBase's Thrift 1 server cannot do: tables with splits and encodings, bulk loads, snapshots.
 *
 * <p>Run from source by the JDK, one long-lived process per client:
 * {@code java -cp CONF:JARS Tables.java [ZOOKEEPER_HOST:PORT]}. It prints {@code ready} when HBase
 * answers; then each line of standard input is a command, its words separated by tabs, and each is
 * answered by one line: {@code ok}, {@code ok TAB result}, {@code error TAB one line}. Logs go to
 * standard error and to log4j's file. The end of standard input ends it, and so does that of the
 * process that started it, at once. Every command may be repeated after a failure.
 *
 * <pre>
 * create   TABLE VERSIONS ENCODING BLOOM SPLITS [SETTINGS]   one family "f"; SPLITS: hex,hex,...
 *                         or nothing; SETTINGS of the table: name=value,... ok as well when the
 *                         table is there
 * begin    the words of create: the same, without waiting until the table is there
 * await                   waits for all that was begun
 * describe TABLE          versions TAB encoding TAB bloom TAB the splits that there are now
 * tables   PREFIX         their names, separated by commas
 * drop     TABLE [ASIDE]  ok as well when there is none; a snapshot ASIDE keeps what was there
 * stage    FILES          then per file frames of [i32 big-endian length][bytes], the last one of
 *                         length 0: written to a new folder on HBase's file system; its name
 * adopt    TABLE FOLDER   bulk load of what was staged there; the folder is removed in any case
 * files    TABLE          how many files the region with the most has
 * sweep    SECONDS        removes what helpers that were killed left staged so long ago; how many
 * flush    TABLE          memory to files; returns when done
 * compact  TABLE          asks for a major compaction; returns at once
 * snapshot NAME TABLE     ok as well when this snapshot of this table is there
 * snapshots               name=table,...
 * restore  NAME TABLE [ASIDE]   the table becomes what the snapshot has; as drop, then clone
 * clone    NAME TABLE     a new table from a snapshot
 * forget   NAME           ok as well when there is none
 * </pre>
 *
 * <p>Commands that neither create tables nor take files may stand in one line with {@code &} between them: they are done some
 * at a time, in any order, and the line fails with the first that failed, when all have ended. The
 * caller sends one line at a time.
 */
public final class Tables {
    private static final byte[] FAMILY = Bytes.toBytes("f");
    private static final String STAGING = "firecell-staging";
    private static final int COPY_BYTES = 1 << 16;
    private static final int LINE_BYTES_MAX = 1 << 20;
    private static final int WATCH_MS = 50;
    private static final int TOGETHER_MAX = 6; // HBase works on several tables at once
    private static final int RETRIES_MAX = 6; // some 10 s: the caller has time-outs of its own

    private final Configuration configuration;
    private final Connection connection;
    private final DataInputStream input;
    private final List<Future<Void>> begun = new ArrayList<>();

    private Tables(Configuration configuration, Connection connection, InputStream input) {
        this.configuration = configuration;
        this.connection = connection;
        this.input = new DataInputStream(new BufferedInputStream(input, 1 << 20));
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
        System.setOut(System.err); // no library may write between our answers
        endWithCaller();
        Configuration configuration = HBaseConfiguration.create();
        if (arguments.length > 0) {
            int colon = arguments[0].lastIndexOf(':');
            configuration.set("hbase.zookeeper.quorum", arguments[0].substring(0, colon));
            configuration.set("hbase.zookeeper.property.clientPort",
                arguments[0].substring(colon + 1));
        }
        configuration.setInt("hbase.client.retries.number", RETRIES_MAX);
        try (Connection connection = ConnectionFactory.createConnection(configuration)) {
            connection.getAdmin().getClusterMetrics();
            answers.println("ready");
            new Tables(configuration, connection, System.in).serve(answers);
        }
    }

    /** A caller that was killed is typed again: what it had asked for must not go on beside that. The
     * end of standard input is seen only between two commands. */
    private static void endWithCaller() {
        long caller = callerNow();
        Thread watch = new Thread(() -> {
            while (callerNow() == caller) {
                try {
                    Thread.sleep(WATCH_MS);
                } catch (InterruptedException ignored) {
                    return;
                }
            }
            Runtime.getRuntime().halt(1);
        });
        watch.setDaemon(true);
        watch.start();
    }

    private static long callerNow() {
        return ProcessHandle.current().parent().map(ProcessHandle::pid).orElse(0L);
    }

    private void serve(PrintStream answers) throws IOException {
        for (String line = readLine(); line != null; line = readLine()) {
            try {
                String result = runAll(line.split("\t&\t", -1));
                answers.println(result.isEmpty() ? "ok" : "ok\t" + result);
            } catch (EOFException gone) {
                return; // in the middle of a file: nobody waits for the answer
            } catch (Exception error) {
                error.printStackTrace();
                answers.println("error\t" + String.valueOf(error).replaceAll("\\s+", " "));
            }
        }
    }

    private String readLine() throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int next = input.read(); next != '\n'; next = input.read()) {
            if (next < 0 || line.size() > LINE_BYTES_MAX) return null;
            line.write(next);
        }
        return line.toString(StandardCharsets.UTF_8);
    }

    private String runAll(String[] commands) throws Exception {
        if (commands.length == 1) return run(commands[0].split("\t", -1));
        ExecutorService workers = Executors.newFixedThreadPool(TOGETHER_MAX);
        try {
            List<Future<String>> running = new ArrayList<>();
            for (String command : commands) {
                running.add(workers.submit(() -> run(command.split("\t", -1))));
            }
            Throwable failure = null;
            for (Future<String> one : running) {
                try {
                    one.get();
                } catch (ExecutionException error) {
                    if (failure == null) failure = error.getCause();
                }
            }
            if (failure != null) throw new IOException(failure);
        } finally {
            workers.shutdown();
        }
        return "";
    }

    private String run(String[] words) throws Exception {
        Admin admin = connection.getAdmin();
        switch (words[0]) {
            case "create": begin(admin, words); return await();
            case "begin": return begin(admin, words);
            case "await": return await();
            case "describe": return describe(admin, table(words, 1));
            case "tables": return names(admin, words.length > 1 ? words[1] : "");
            case "drop": return drop(admin, table(words, 1), words.length > 2 ? words[2] : "");
            case "stage": return stage(Integer.parseInt(words[1]));
            case "adopt": return adopt(table(words, 1), new Path(staging(), words[2]));
            case "files": return files(admin, table(words, 1));
            case "sweep": return sweep(Long.parseLong(words[1]));
            case "flush": admin.flush(table(words, 1)); return "";
            case "compact": admin.majorCompact(table(words, 1)); return "";
            case "snapshot": return snapshot(admin, words[1], table(words, 2));
            case "snapshots": return snapshots(admin);
            case "restore":
                return restore(admin, words[1], table(words, 2), words.length > 3 ? words[3] : "");
            case "clone": admin.cloneSnapshot(words[1], table(words, 2)); return "";
            case "forget": return forget(admin, words[1]);
            default: throw new IOException("unknown command " + words[0]);
        }
    }

    private static TableName table(String[] words, int place) {
        return TableName.valueOf(words[place]);
    }

    // --- tables ---

    private String begin(Admin admin, String[] words) throws IOException {
        if (admin.tableExists(table(words, 1))) return "";
        ColumnFamilyDescriptor family = ColumnFamilyDescriptorBuilder.newBuilder(FAMILY)
            .setMaxVersions(Integer.parseInt(words[2]))
            .setDataBlockEncoding(DataBlockEncoding.valueOf(words[3]))
            .setBloomFilterType(BloomType.valueOf(words[4]))
            .build();
        TableDescriptorBuilder table =
            TableDescriptorBuilder.newBuilder(table(words, 1)).setColumnFamily(family);
        for (String setting : words.length > 6 ? words[6].split(",") : new String[0]) {
            int equals = setting.indexOf('=');
            table.setValue(setting.substring(0, equals), setting.substring(equals + 1));
        }
        byte[][] splits = words[5].isEmpty()
            ? null
            : Arrays.stream(words[5].split(",")).map(Bytes::fromHex).toArray(byte[][]::new);
        try {
            begun.add(admin.createTableAsync(table.build(), splits));
        } catch (TableExistsException raced) {
            System.err.println("another process created " + words[1]);
        }
        return "";
    }

    private String await() throws Exception {
        List<Future<Void>> all = List.copyOf(begun);
        begun.clear();
        for (Future<Void> one : all) {
            try {
                one.get();
            } catch (ExecutionException failed) {
                if (!(failed.getCause() instanceof TableExistsException)) throw failed;
            }
        }
        return "";
    }

    private String describe(Admin admin, TableName table) throws IOException {
        ColumnFamilyDescriptor family = admin.getDescriptor(table).getColumnFamily(FAMILY);
        if (family == null) throw new IOException(table + " has no family f");
        try (RegionLocator regions = connection.getRegionLocator(table)) {
            String splits = Arrays.stream(regions.getStartKeys())
                .filter(key -> key.length > 0).map(Bytes::toHex).collect(Collectors.joining(","));
            return String.join("\t", String.valueOf(family.getMaxVersions()),
                family.getDataBlockEncoding().name(), family.getBloomFilterType().name(), splits);
        }
    }

    private String names(Admin admin, String prefix) throws IOException {
        return Arrays.stream(admin.listTableNames()).map(TableName::getNameAsString)
            .filter(name -> name.startsWith(prefix)).collect(Collectors.joining(","));
    }

    private String drop(Admin admin, TableName table, String aside) throws IOException {
        if (!admin.tableExists(table)) return "";
        if (admin.isTableEnabled(table)) admin.disableTable(table);
        if (!aside.isEmpty()) snapshot(admin, aside, table);
        admin.deleteTable(table);
        return "";
    }

    // --- snapshots ---

    private String snapshot(Admin admin, String name, TableName table) throws IOException {
        for (SnapshotDescription one : admin.listSnapshots()) {
            if (one.getName().equals(name) && one.getTableName().equals(table)) return "";
        }
        admin.snapshot(name, table);
        return "";
    }

    private String snapshots(Admin admin) throws IOException {
        return admin.listSnapshots().stream()
            .map(one -> one.getName() + "=" + one.getTableName().getNameAsString())
            .collect(Collectors.joining(","));
    }

    private String restore(Admin admin, String name, TableName table, String aside)
        throws IOException {
        if (admin.listSnapshots().stream().noneMatch(one -> one.getName().equals(name))) {
            throw new IOException("no snapshot " + name);
        }
        drop(admin, table, aside);
        admin.cloneSnapshot(name, table);
        return "";
    }

    private String forget(Admin admin, String name) throws IOException {
        for (SnapshotDescription one : admin.listSnapshots()) {
            if (one.getName().equals(name)) admin.deleteSnapshot(name);
        }
        return "";
    }

    // --- bulk load ---

    private String files(Admin admin, TableName table) throws IOException {
        int most = 0;
        for (ServerName server : admin.getRegionServers()) {
            for (RegionMetrics region : admin.getRegionMetrics(server, table)) {
                most = Math.max(most, region.getStoreFileCount());
            }
        }
        return String.valueOf(most);
    }

    /** Other helpers may be staging: theirs are younger than a load may take. */
    private String sweep(long seconds) throws IOException {
        Path staging = staging();
        FileSystem files = staging.getFileSystem(configuration);
        if (!files.exists(staging)) return "0";
        int removed = 0;
        for (FileStatus folder : files.listStatus(staging)) {
            long age = System.currentTimeMillis() - folder.getModificationTime();
            if (age >= seconds * 1000 && files.delete(folder.getPath(), true)) removed++;
        }
        return String.valueOf(removed);
    }

    private Path staging() throws IOException {
        return new Path(CommonFSUtils.getRootDir(configuration), STAGING);
    }

    /** Takes every byte of every file from the input, whatever fails, so that the next line is a
     * command again. */
    private String stage(int count) throws IOException {
        IOException failure = null;
        FileSystem files = null;
        Path folder = null;
        String own = UUID.randomUUID().toString();
        try {
            folder = new Path(staging(), own);
            files = folder.getFileSystem(configuration);
            files.mkdirs(folder);
        } catch (IOException error) {
            failure = error;
        }
        for (int index = 0; index < count; index++) {
            Path path = failure == null ? new Path(folder, "run" + index) : null;
            IOException problem = receive(files, path);
            if (problem != null && failure == null) failure = problem;
        }
        if (failure == null) return own;
        if (files != null) files.delete(folder, true);
        throw failure;
    }

    private String adopt(TableName table, Path folder) throws IOException {
        FileSystem files = folder.getFileSystem(configuration);
        try {
            List<Path> staged = new ArrayList<>();
            for (FileStatus file : files.listStatus(folder)) staged.add(file.getPath());
            Map<byte[], List<Path>> families = new TreeMap<>(Bytes.BYTES_COMPARATOR);
            families.put(FAMILY, staged);
            BulkLoadHFiles.create(configuration).bulkLoad(table, families);
        } finally {
            files.delete(folder, true);
        }
        return "";
    }

    /** One file; what went wrong with writing it, or null. EOFException: the caller is gone. */
    private IOException receive(FileSystem files, Path path) throws EOFException, IOException {
        IOException problem = path == null ? new IOException("not written") : null;
        OutputStream output = null;
        try {
            if (path != null) output = files.create(path, true);
        } catch (IOException error) {
            problem = error;
        }
        byte[] buffer = new byte[COPY_BYTES];
        for (int left = input.readInt(); left > 0; left = input.readInt()) {
            while (left > 0) {
                int size = Math.min(left, buffer.length);
                input.readFully(buffer, 0, size);
                left -= size;
                if (problem != null) continue;
                try {
                    output.write(buffer, 0, size);
                } catch (IOException error) {
                    problem = error;
                }
            }
        }
        try {
            if (output != null) output.close();
        } catch (IOException error) {
            if (problem == null) problem = error;
        }
        return problem;
    }
}
